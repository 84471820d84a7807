"""What `show` prints of a study: counts and costs of its networks, in what its rows differ, and what they share."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from relujax import datasets
from relujax.data import input_shape
from relujax.estimate import seconds_of, seconds_taken
from relujax.layers import count
from relujax.progress import duration
from relujax.records import read_results
from relujax.runner import phases
from relujax.study import Entry, Study
from relujax.tables import NOTHING, grid
from relujax.trial import describe, trial_id

COSTS = (
    "MFLOPs: of one image forward, two per multiply-add of the convolution (H' W' C' k² C / groups) and dense (C' C) "
    "layers. Memory: what these, BatchNorm and the activations give for one image, which its gradient may need."
)


def show(name: str, study: Entry, note: str, console: Console) -> None:
    """Prints question, rows and claims of a study, and `note`, its docstring."""
    console.print(Text.assemble((name, "bold"), f" ({study.source}): {study.question}"))
    if isinstance(study, Study):
        _show_trials(study, console)
    else:
        console.print(f"Measured, without training: {', '.join(study.rows)}.", markup=False)
        for label, number in study.reported.items():
            console.print(f"  the paper's {label}: {number}", markup=False)
    console.print("Claims:" if study.claims else "No claim.")
    for stated in study.claims:
        console.print(f"  {stated.words}", markup=False)
    console.print(note, style="dim", highlight=False, markup=False)


def show_times(study: Study, workdir: Path, console: Console) -> None:
    """Prints for each row how long it will take on this device, and how long its runs took that `workdir` holds."""
    rows, expected = [], dict[str, float]()  # seconds of each trial, which several rows may need
    with console.status("taking a few steps") as status:
        for label, trial in study.trials.items():
            status.update(f"taking a few steps of {escape(label)}")
            needed = {trial_id(phase): phase for phase in phases([trial])}
            for name, phase in needed.items():
                if name not in expected:
                    expected[name] = seconds_of(phase, study.runs)
            will = sum(expected[name] for name in needed)
            took, runs = seconds_taken(read_results(workdir, needed, study.runs).values())
            near = f"{took / (will * runs / study.runs):.2f}" if runs else NOTHING
            rows.append([label, duration(will), duration(took) if runs else NOTHING, str(runs), near])
    header = ["row", f"{study.runs} runs will take", "took", "runs", "took / expected"]
    console.print(grid(header, rows, width=console.width))
    console.print(f"In all about {duration(sum(expected.values()))}, compiling left out; what rows share counts once.")


def _show_trials(study: Study, console: Console) -> None:
    described = {label: dict(_flat(describe(trial))) for label, trial in study.trials.items()}
    first = next(iter(described.values()))
    common = {field for field in first if all(row.get(field) == first[field] for row in described.values())}
    varying = dict.fromkeys(field for row in described.values() for field in row if field not in common)
    header = ["row", "parameters", "layers", "sites", "MFLOPs", "memory MB"]
    header += ["paper"] if study.reported else []
    rows = []
    for label, trial in study.trials.items():
        images = (1, *input_shape(trial.data, datasets.facts_of(trial.data).shape))
        found = count(trial.model, images)
        cells = [label, f"{found.parameters:,}", str(found.layers), str(found.sites)]
        cells += [_three_digits(2 * found.multiply_adds / 1e6), _three_digits(found.activation_bytes / 1e6)]
        rows.append([*cells, *([str(study.reported.get(label, NOTHING))] if study.reported else [])])
    console.print(grid(header, rows, width=console.width))
    console.print(COSTS, style="dim", highlight=False)
    if not study.reported:
        console.print("The paper prints no number for these rows.")
    if varying:
        console.print("Rows differ in:")
        table = Table(Column("row", max_width=console.width // 2), "settings", box=SIMPLE, padding=(0, 1, 0, 0))
        above: Mapping[str, str] = {}
        for label, row in described.items():
            alike = {field for field in varying if field in row and row[field] == above.get(field)}
            briefly = len(alike) > 3
            own = [field for field in varying if field in row and not (briefly and field in alike)]
            settings = "; ".join(f"{field.partition('.')[2] or field} = {row[field]}" for field in own)
            table.add_row(label, Text(f"as above, {settings}" if briefly else settings))
            above = row
        console.print(table)
    console.print("In every row:")
    for field in first:
        if field in common:
            console.print(f"  {field} = {first[field]}", highlight=False)
    console.print(f"{study.runs} runs per row.")


def _three_digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:#.3g}".rstrip(".")


def _flat(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """{"recipe": {"length": {"class": "Epochs", "count": 300}}} → ("recipe.length", "Epochs"), ("….count", "300")."""
    if isinstance(value, Mapping):
        if "function" in value:
            inner = value["function"]  # of a partial of one's own it is such a mapping, too
            constants = [str(item) for key, item in value.items() if key not in ("function", "code")]
            name = inner["function"] if isinstance(inner, Mapping) else inner
            yield path, f"{name}({', '.join(constants)})" if constants else str(name)
            return
        if "class" in value and path:
            yield path, str(value["class"])
        for key, item in value.items():
            if key != "class":
                yield from _flat(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and not any(isinstance(item, Mapping | list) for item in value):
        yield path, f"({', '.join(f'{item:g}' if isinstance(item, float) else str(item) for item in value)})"
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _flat(item, path if len(value) == 1 else f"{path}.{position + 1}")
    else:
        yield path, f"{value:g}" if isinstance(value, float) else str(value)
