"""Run directories → tables, figures, verdicts and one HTML page; reads files only, and only `write…` makes any."""

import importlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relujax import figures, records
from relujax.activations import ACTIVATIONS
from relujax.claims import Results
from relujax.errors import need
from relujax.measure import read_measurement
from relujax.results import record
from relujax.study import Bars, ByDepth, Curves, Entry, Measurement, Study, rehearsal_reasons
from relujax.tables import judgements, markdown, table, table_cells
from relujax.trial import RunResult, describe, differences

MAY_DIFFER = ("date", "runs_at_once", "code")  # between the runs of a study; each network's code is its own


def read(study: Entry, name: str, workdir: Path) -> Results:
    """What `workdir` holds of a study: the runs of every row, or the repeats of every measured row."""
    if isinstance(study, Study):
        return records.read_results(workdir, study.trials, study.runs)
    return read_measurement(study, name, workdir)


def write(studies: Mapping[str, Entry], workdir: str | Path, notes: Mapping[str, str] | None = None) -> Path:
    """Writes report/<study>.{svg,png,md,tex}, and report.html and report.md over all; returns the page's path."""
    need("jinja2", extra="report")
    import jinja2

    workdir = Path(workdir)
    sections, pages = [], []
    for name, study in studies.items():
        records.check_name(name)
        results = read(study, name, workdir)
        files = {"md": markdown(study, results).encode(), "tex": table(study, results, "latex").encode()}
        figure = figures.files(study, results)
        pages.append(files["md"])
        files |= figure
        for ending, content in files.items():
            records.write_whole(workdir / "report" / f"{name}.{ending}", content)
        section = _section(name, study, results, figure, (notes or {}).get(name, ""))
        sections.append(section | {"version": other_version(study, name, workdir)})
    records.write_whole(workdir / "report.md", b"\n".join(pages))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    verdicts = Counter(judgement.verdict.value for section in sections for judgement in section["judgements"])
    page = environment.get_template("report.html.jinja").render(sections=sections, verdicts=verdicts)
    path = workdir / "report.html"
    records.write_whole(path, page.encode())
    return path


def write_record(study: Entry, name: str, results: Results, directory: Path) -> Path:
    """Writes the study's small JSON record and its figure into `directory`; returns the record's path."""
    for ending, content in figures.files(study, results).items():
        records.write_whole(directory / f"{name}.{ending}", content)
    path = directory / f"{name}.json"
    records.write_json(path, record(study, name, results), indent=None)
    return path


def other_version(study: Entry, name: str, workdir: Path) -> str:
    """In which fields the study that `workdir` was begun with differs from today's; "" where it does not."""
    noted = records.read_study(workdir, name) if isinstance(study, Study) else None
    if noted is None:
        return ""
    fields = differences(describe(study.trials), noted["trials"])  # type: ignore[union-attr]
    return "; ".join(fields[:4]) + (f"; and {len(fields) - 4} more" if len(fields) > 4 else "")


def deviations(study: Entry, note: str = "") -> list[str]:
    """The `Deviation:` paragraphs of a study (`note`, its docstring), of its networks, what they import, and probes."""
    said = [note]
    for trial in study.trials.values() if isinstance(study, Study) else ():
        network = importlib.import_module(type(trial.model).__module__)
        named = getattr(trial.model, "activation", None)  # a function or module, or its name
        activation = ACTIVATIONS.get(named) if isinstance(named, str) else named
        parts = (network, *vars(network).values(), activation, *trial.probes)
        said += [part.__doc__ or "" for part in parts]
    return list(dict.fromkeys(each for text in dict.fromkeys(said) for each in deviations_in(text)))


def deviations_in(docstring: str) -> list[str]:
    """The `Deviation:` paragraphs of one docstring, each on one line."""
    found = re.findall(r"Deviation: (.+?)(?=\n\s*\n|\n\s*Deviation:|\Z)", docstring, re.S)
    return [" ".join(each.split()) for each in found]


def _section(name: str, study: Entry, results: Results, figure: Mapping[str, bytes], note: str) -> dict[str, Any]:
    """What the page says of one study."""
    header, rows = table_cells(study, results)
    runs = [(label, run) for label, own in results.items() for run in own]
    environments = [dict(run.environment) for _, run in runs if run.environment]
    fields = list(dict.fromkeys(field for environment in environments for field in environment))
    values = {
        field: list(dict.fromkeys(str(environment.get(field, "")) for environment in environments)) for field in fields
    }
    return {
        "name": name,
        "study": study,
        "reasons": rehearsal_reasons(study, results),
        "header": header,
        "rows": rows,
        "figure": figures.inline(figure["svg"], name) if figure else "",
        "averaged": any(isinstance(panel, Curves | Bars | ByDepth) for panel in study.panels),
        "judgements": judgements(study, results),
        "measured": isinstance(study, Measurement),
        "runs_done": sum(run.status != "unfinished" for _, run in runs),
        "failures": _failures(study, results),
        "runs": [
            {
                "row": label,
                "seed": run.seed,
                "status": run.status,
                "epochs": len(run.history),
                "minutes": f"{np.nansum(run.curve('seconds')) / 60:.1f}",
                "trial": run.trial_id,
            }
            for label, run in runs
        ],
        "environment": {field: ", ".join(own) for field, own in values.items() if any(own)},
        "mixed": [field for field, own in values.items() if len(own) > 1 and field not in MAY_DIFFER],
        "other_code": [label for label, own in results.items() if len(_codes(own)) > 1],
        "deviations": deviations(study, note),
        "note": note.split("Deviation:")[0].strip(),
    }


def _failures(study: Entry, results: Results) -> list[str]:
    """Which runs of which rows diverged or are not at their end."""
    if isinstance(study, Measurement):
        return []
    found = []
    for label, runs in results.items():
        epochs = study.trials[label].recipe.length.count
        places: dict[str, list[str]] = {}
        for run in runs:
            if run.status == "diverged":
                places.setdefault(f"diverged at step {run.diverged_at_step}", []).append(str(run.seed))
            elif run.status == "unfinished":
                place = f"not finished: {len(run.history)} of {epochs} epochs"
                place += f", {run.failure}" if run.failure else ""
                places.setdefault(place, []).append(str(run.seed))
        found += [f"{label}, seed {', '.join(seeds)} {place}" for place, seeds in places.items()]
    return found


def _codes(runs: Sequence[RunResult]) -> set[str]:
    """By what code of relujax the runs of a row were trained, as far as it was noted."""
    return {run.environment["code"] for run in runs if "code" in run.environment}
