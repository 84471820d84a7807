"""Which studies there are, and how a workdir holds them."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from rich.box import SIMPLE
from rich.table import Column, Table

from relujax import records
from relujax.data import Data
from relujax.errors import check_choice
from relujax.study import Entry, Measurement, Study, adapt

Studies = Mapping[str, Callable[[], Entry]]


def studies_of(*modules: ModuleType) -> dict[str, Callable[[], Entry]]:
    """The public functions of the experiment files that return a study or measurement, as "file.function"."""
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": function
        for module in modules
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and not name.startswith("_")
        and function.__annotations__.get("return") in (Study, Measurement)
    }


def find(studies: Studies, name: str) -> Entry:
    """The study of this name; an unknown one is refused with the nearest."""
    check_choice("study", name, studies)
    return studies[name]()


def as_run(studies: Studies, name: str, workdir: Path) -> Entry | None:
    """The study as this workdir holds it, with the lengths and data that it was run with; None where it was not."""
    study = find(studies, name)
    if isinstance(study, Measurement):
        return study if records.read_measured_rows(workdir, name, study.labels) else None
    noted = records.read_study(workdir, name)
    if noted is None:
        return None
    overrides = noted["overrides"]
    if isinstance(overrides.get("data"), dict):
        overrides["data"] = Data.from_description(overrides["data"])
    return adapt(study, **overrides)


def note(function: Callable[[], Entry]) -> str:
    """The study's docstring, and of its file's the deviations, which hold for every study there."""
    of_file = (inspect.getdoc(inspect.getmodule(function)) or "").partition("Deviation:")
    return f"{inspect.getdoc(function) or ''}\n\n{of_file[1]}{of_file[2]}".strip()


def listing(studies: Studies, workdir: Path) -> Table:
    """Every study: name, rows × runs, how many of its runs `workdir` holds, source."""
    # Names are there to be typed: the source gives way where the window is narrow.
    table = Table("study", "rows × runs", "done", Column("source", ratio=1, no_wrap=True), box=SIMPLE, expand=True)
    for name in studies:
        study = as_run(studies, name, workdir) or studies[name]()
        if isinstance(study, Measurement):
            size, total = f"{len(study.rows)}, measured", len(study.rows)
            done = len(records.read_measured_rows(workdir, name, study.labels))
        else:
            size, total = f"{len(study.trials)} × {study.runs}", len(study.trials) * study.runs
            directories = (
                records.run_directory(workdir, trial, seed)
                for trial in study.trials.values()
                for seed in range(study.runs)
            )
            done = sum(map(records.is_finished, directories))
        table.add_row(name, size, f"{done} of {total}" if done else "–", study.source)
    return table
