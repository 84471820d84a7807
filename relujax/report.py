"""Run directories → tables, figures, verdicts and one HTML page; reads files only, and only `write…` makes any."""

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.box import SIMPLE
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from relujax import figures, records, statistics
from relujax.claims import LEVEL, Epoch, Judgement, Results, judge, variance_over_epochs
from relujax.errors import need
from relujax.measure import read_measurement
from relujax.study import Bars, ByDepth, Curves, Measurement, Study, rehearsal_reasons
from relujax.trial import RunResult, describe, differences, trial_id

Entry = Study | Measurement

Style = Literal["text", "markdown", "latex"]
NOTHING = "–"


def read(study: Entry, name: str, workdir: Path) -> Results:
    """What `workdir` holds of a study: the runs of every row, or the repeats of every measured row."""
    if isinstance(study, Study):
        return records.read_results(workdir, study.trials, study.runs)
    return read_measurement(study, name, workdir)


def table_cells(study: Entry, results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the study's table: row, mean ± std of each metric, n; beside the paper's number, if any.

    The first metric is that of the paper, at the epoch that the paper prints. "agrees" means that a t-test on our runs
    cannot tell our mean from the printed one at the level of 0.05.
    """
    first = study.metrics[0] if study.metrics else ""
    columns: list[tuple[str, Epoch]] = [(metric, "last") for metric in study.metrics]
    if study.epoch == "best":
        columns.insert(0, (first, "best"))
    header = ["", *(_heading(metric, epoch, study.epoch) for metric, epoch in columns), "n"]
    if study.reported or study.published:
        header += ["paper", "difference", "verdict"]
    rehearsed = bool(rehearsal_reasons(study, results))
    rows = []
    for label in study.labels:
        runs = results.get(label, ())
        done = [run for run in runs if run.status == "done"]
        cells = [label, *(_spread([run.at(*column) for run in done], column[0]) for column in columns)]
        cells.append(_count(study, runs))
        if study.reported or study.published:
            cells += _beside_the_paper(study, label, [run.at(first, study.epoch) for run in done], rehearsed)
        rows.append(cells)
    for label, number in study.published.items():
        rows.append([label, *[NOTHING] * len(columns), NOTHING, str(number), NOTHING, "as printed"])
    return header, rows


def _beside_the_paper(study: Entry, label: str, values: Sequence[float], rehearsed: bool) -> list[str]:
    """The paper's number, ours minus it, and whether they agree."""
    reported = study.reported.get(label)
    if reported is None:
        return ["none printed", NOTHING, NOTHING]
    ours = np.array(values) * (100 if figures.is_share(study.metrics[0]) else 1)
    if not len(ours):
        return [str(reported), NOTHING, NOTHING]
    difference = f"{statistics.mean(ours) - reported.mean:+.2f}"
    p_value = statistics.differs_from_reported(ours, reported.mean, reported.std, reported.runs)
    if isinstance(study, Measurement):  # of another machine: a test would only say that it is another one
        verdict = NOTHING
    elif rehearsed:
        verdict = "rehearsal"
    elif np.isnan(p_value):
        verdict = NOTHING
    else:
        verdict = f"{'agrees' if p_value > LEVEL else 'differs'} (p = {p_value:.2g})"
    return [str(reported), difference, verdict]


def table(study: Entry, results: Results, style: Style) -> str:
    """The study's table as plain text, Markdown or LaTeX."""
    header, rows = table_cells(study, results)
    if style == "latex":
        lines = [" & ".join(map(_latex, cells)) + r" \\" for cells in (header, *rows)]
        columns = "l" + "r" * (len(header) - 1)
        top = [rf"\begin{{tabular}}{{{columns}}}", r"\hline", lines[0], r"\hline"]
        return "\n".join([*top, *lines[1:], r"\hline", r"\end{tabular}"]) + "\n"
    if style == "markdown":
        lines = ["| " + " | ".join(map(_markdown, cells)) + " |" for cells in (header, *rows)]
        return "\n".join([lines[0], "|" + " --- |" * len(header), *lines[1:]]) + "\n"
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip() for cells in (header, *rows)]
    return "\n".join([lines[0], "  ".join("─" * width for width in widths), *lines[1:]]) + "\n"


def judgements(study: Entry, results: Results) -> list[Judgement]:
    """The verdict on each claim of the study."""
    reasons = rehearsal_reasons(study, results)
    return [judge(stated, results, reasons) for stated in study.claims]


def summary(study: Entry, results: Results) -> Group:
    """What the terminal shows after a run: the table, then each claim with its verdict and the numbers behind it."""
    header, rows = table_cells(study, results)
    grid = Table(Column(header[0], no_wrap=True), *header[1:], box=SIMPLE)
    for cells in rows:
        grid.add_row(*map(Text, cells))
    parts: list[Text | Table] = [Text(f"{study.source}: {study.question}", style="bold")]
    if reasons := rehearsal_reasons(study, results):
        parts.append(Text(f"Rehearsal, not the paper's study: {'; '.join(reasons)}.", style="yellow"))
    parts.append(grid)
    for judgement in judgements(study, results):
        parts.append(Text(f"{judgement.verdict.value.upper()}: {judgement.stated.words}", style="bold"))
        parts.append(Text(f"  {judgement.finding}\n"))
    return Group(*parts)


def write(studies: Mapping[str, Entry], workdir: Path, notes: Mapping[str, str] | None = None) -> Path:
    """Writes report/<study>.{svg,png,md,tex}, and report.html and report.md over all; returns the page's path."""
    need("jinja2", extra="report")
    import jinja2

    sections, pages = [], []
    for name, study in studies.items():
        results = read(study, name, workdir)
        files = {"md": markdown(study, results).encode(), "tex": table(study, results, "latex").encode()}
        figure = _figure(study, results)
        pages.append(files["md"])
        files |= figure
        for ending, content in files.items():
            _write(workdir / "report" / f"{name}.{ending}", content)
        section = _section(name, study, results, figure, (notes or {}).get(name, ""))
        sections.append(section | {"version": other_version(study, name, workdir)})
    _write(workdir / "report.md", b"\n".join(pages))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    path = workdir / "report.html"
    _write(path, environment.get_template("report.html.jinja").render(sections=sections).encode())
    return path


def other_version(study: Entry, name: str, workdir: Path) -> str:
    """In which fields the study that `workdir` was begun with differs from today's; "" where it does not."""
    noted = records.read_study(workdir, name) if isinstance(study, Study) else None
    if noted is None:
        return ""
    fields = differences(describe(study.trials), noted["trials"])  # type: ignore[union-attr]
    return "; ".join(fields[:4]) + (f"; and {len(fields) - 4} more" if len(fields) > 4 else "")


def markdown(study: Entry, results: Results) -> str:
    """The table and the verdicts as Markdown."""
    lines = [f"### {_markdown(study.source)}: {_markdown(study.question)}", ""]
    if reasons := rehearsal_reasons(study, results):
        lines += [f"**Rehearsal**, not the paper's study: {_markdown('; '.join(reasons))}.", ""]
    lines += [table(study, results, "markdown")]
    for judgement in judgements(study, results):
        words, finding = _markdown(judgement.stated.words), _markdown(judgement.finding)
        lines.append(f"- **{judgement.verdict.value}**: {words} {finding}")
    return "\n".join(lines) + "\n"


def write_record(study: Entry, name: str, results: Results, directory: Path) -> Path:
    """Writes the study's small JSON record and its figure into `directory`; returns the record's path."""
    for ending, content in _figure(study, results).items():
        _write(directory / f"{name}.{ending}", content)
    path = directory / f"{name}.json"
    records.write_json(path, record(study, name, results), indent=None)
    return path


def results_table(directory: Path, studies: Mapping[str, Entry]) -> str:
    """The records of real runs in `directory` as a Markdown table: what was claimed, what came out, how sure."""
    lines = ["| study | claim | verdict | p | runs | hours | figure |", "|" + " --- |" * 7]
    for path, found, runs in _recorded(directory):
        for position, claim in enumerate(found["claims"]):
            p_value = NOTHING if claim["p"] is None else f"{claim['p']:.2g}"
            cells = ["", _markdown(claim["words"]), claim["verdict"], p_value, "", "", ""]
            if position == 0:
                picture = path.with_suffix(".png")
                hours = sum(sum(run["curves"].get("seconds", ())) for run in runs) / 3600
                cells[0] = _markdown(found["source"]) + _if_outdated(found, studies)
                cells[4:] = [str(len(runs)), f"{hours:.1f}", f"[figure](results/{picture.name})"]
                cells[6] = cells[6] if picture.exists() else NOTHING
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def rehearsals_table(directory: Path, studies: Mapping[str, Entry]) -> str:
    """The records of shortened runs and stand-in data in `directory`: what was seen, and why it is no verdict."""
    lines = ["| study | why a rehearsal | seen |", "|" + " --- |" * 3]
    for _, found, _ in _recorded(directory):
        seen = [claim["finding"] for claim in found["claims"] if not claim["finding"].startswith("no finished run")]
        for position, finding in enumerate(seen):
            first = [
                _markdown(found["source"]) + _if_outdated(found, studies),
                _markdown("; ".join(found["rehearsal"])),
            ]
            lines.append("| " + " | ".join([*(first if position == 0 else ["", ""]), _markdown(finding)]) + " |")
    return "\n".join(lines) + "\n"


def _recorded(directory: Path) -> Iterator[tuple[Path, Mapping[str, Any], Sequence[Mapping[str, Any]]]]:
    """Path, content and runs of every record."""
    for path in sorted(directory.glob("*.json")):
        found = records.read_json(path)
        yield path, found, [run for row in found["rows"].values() for run in row["runs"]]


def _if_outdated(found: Mapping[str, Any], studies: Mapping[str, Entry]) -> str:
    """Says of a record whether it was made by another version of its study."""
    study = studies.get(found["study"])
    if study is None:
        return " (a study that is gone)"
    if found["rehearsal"] or not isinstance(study, Study):
        return ""
    now = {label: trial_id(trial) for label, trial in study.trials.items()}
    then = {label: row.get("trial_id") for label, row in found["rows"].items()}
    return "" if now == then else " (another version of the study)"


def record(study: Entry, name: str, results: Results) -> dict[str, Any]:
    """A study's runs as JSON data small enough to commit: settings, curves, verdicts and circumstances."""
    return {
        "study": name,
        "source": study.source,
        "question": study.question,
        "rehearsal": list(rehearsal_reasons(study, results)),
        "table": table(study, results, "markdown").splitlines(),
        "claims": [
            {"words": each.stated.words, "verdict": each.verdict.value, "finding": each.finding, "p": each.p_value}
            for each in judgements(study, results)
        ],
        "rows": {
            label: {**_identity(study, label), "runs": [_run_record(run) for run in results.get(label, ())]}
            for label in study.labels
        },
    }


def _identity(study: Entry, label: str) -> dict[str, Any]:
    """What a row's runs are runs of; a measured row has no trial."""
    if not isinstance(study, Study):
        return {}
    return {"trial_id": trial_id(study.trials[label]), "trial": describe(study.trials[label])}


def _run_record(run: RunResult) -> dict[str, Any]:
    names = dict.fromkeys(name for epoch in run.history for name in epoch if name not in ("epoch", "step"))
    curves = {name: [_short(value) for value in run.curve(name) if not np.isnan(value)] for name in names}
    quartiles = {
        f"{probe}, variance over epochs of its {of}": [
            _short(value) for value in np.percentile(variance_over_epochs(run, probe, of), (0, 25, 50, 75, 100))
        ]
        for probe, values in run.unit_values.items()
        if values.ndim == 2 and len(values) > 1  # one value per unit and epoch; not images, not a measured curve
        for of in ("value", "change")
    }
    return {
        "seed": run.seed,
        "status": run.status,
        **({"diverged_at_step": run.diverged_at_step} if run.diverged_at_step is not None else {}),
        "epochs": len(run.history),
        "curves": curves,
        **({"quartiles_over_units": quartiles} if quartiles else {}),
        "environment": dict(run.environment),
    }


def _section(name: str, study: Entry, results: Results, figure: Mapping[str, bytes], note: str) -> dict[str, Any]:
    header, rows = table_cells(study, results)
    runs = [(label, run) for label, own in results.items() for run in own]
    environments = [dict(run.environment) for _, run in runs if run.environment]
    fields = list(dict.fromkeys(field for environment in environments for field in environment))
    values = {
        field: list(dict.fromkeys(str(environment.get(field, "")) for environment in environments)) for field in fields
    }
    svg = figure.get("svg", b"").decode()
    return {
        "name": name,
        "study": study,
        "reasons": rehearsal_reasons(study, results),
        "header": header,
        "rows": rows,
        "svg": svg[svg.find("<svg") :],  # without the XML prologue it can stand in a page
        "averaged": any(isinstance(panel, Curves | Bars | ByDepth) for panel in study.panels),
        "judgements": judgements(study, results),
        "repeats": isinstance(study, Measurement),
        "runs": [
            {
                "row": label,
                "seed": run.seed,
                "status": run.status + (f" at step {run.diverged_at_step}" if run.diverged_at_step is not None else ""),
                "epochs": len(run.history),
                "minutes": f"{np.nansum(run.curve('seconds')) / 60:.1f}",
                "id": run.trial_id,
            }
            for label, run in runs
        ],
        "environment": {field: ", ".join(own) for field, own in values.items()},
        "mixed": [field for field, own in values.items() if len(own) > 1 and field not in ("date", "runs_at_once")],
        "deviations": deviations(study, note),
        "note": note.split("Deviation:")[0].strip(),
    }


def deviations(study: Entry, note: str = "") -> list[str]:
    """The `Deviation:` paragraphs of the study (`note`, its docstring), of its networks' files and of its probes."""
    texts = [note]
    for trial in study.trials.values() if isinstance(study, Study) else ():
        texts.append(importlib.import_module(type(trial.model).__module__).__doc__ or "")
        texts += [type(part).__doc__ or "" for part in (trial.model, *trial.probes)]
    return list(dict.fromkeys(each for text in texts for each in deviations_in(text)))


def deviations_in(docstring: str) -> list[str]:
    """The `Deviation:` paragraphs of one docstring, each on one line."""
    found = re.findall(r"Deviation: (.+?)(?=\n\s*\n|\n\s*Deviation:|\Z)", docstring, re.S)
    return [" ".join(each.split()) for each in found]


def _figure(study: Entry, results: Results) -> dict[str, bytes]:
    """{"svg": …, "png": …}; nothing where no run is done yet."""
    if not study.panels or not any(run.status == "done" for runs in results.values() for run in runs):
        return {}
    figure = figures.draw(study, results)
    return {form: figures.render(figure, form) for form in ("svg", "png")}


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def _heading(metric: str, epoch: Epoch, of_the_study: Epoch) -> str:
    which = f", {epoch} epoch" if of_the_study == "best" else ""
    return metric.replace("_", " ") + (" (%)" if figures.is_share(metric) else "") + which


def _spread(values: Sequence[float], metric: str) -> str:
    """mean ± std, in percent with two decimals where the metric is a share, else with three digits of the std."""
    if not values:
        return NOTHING
    mean, std = statistics.mean(values), statistics.std(values)
    if figures.is_share(metric):
        mean, std, digits = 100 * mean, 100 * std, 2
    else:
        # Two digits of the spread say how many of the mean are worth printing.
        scale = std if std > 0 else abs(mean) / 100
        if scale == 0 or not np.isfinite(scale):
            return f"{mean:.4g}"
        digits = int(1 - np.floor(np.log10(scale)))
        if digits > 6:
            return f"{mean:.3g}" if np.isnan(std) else f"{mean:.3g} ± {std:.1g}"
        digits = max(digits, 0)
    return f"{mean:.{digits}f}" if np.isnan(std) else f"{mean:.{digits}f} ± {std:.{digits}f}"


def _count(study: Entry, runs: Sequence[RunResult]) -> str:
    """ "5/5", or "3/5, 2 diverged at steps 12 to 99"; of a measurement the number of repeats."""
    if isinstance(study, Measurement):
        return str(len(runs))
    done = sum(run.status == "done" for run in runs)
    steps = sorted(run.diverged_at_step or 0 for run in runs if run.status == "diverged")
    if not steps:
        return f"{done}/{study.runs}"
    where = f"step {steps[0]}" if steps[0] == steps[-1] else f"steps {steps[0]} to {steps[-1]}"
    return f"{done}/{study.runs}, {len(steps)} diverged at {where}"


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _markdown(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", text)


def _latex(text: str) -> str:
    special = {character: "\\" + character for character in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"±": r"$\pm$", "–": "--"}
    return "".join(special.get(character, character) for character in text)
