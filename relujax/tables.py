"""The table of a study, ours beside the paper's, and its verdicts: as text, Markdown, LaTeX and on the terminal."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from rich.box import SIMPLE
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from relujax import statistics
from relujax.claims import LEVEL, Epoch, Judgement, Results, judge
from relujax.study import Entry, Measurement, rehearsal_reasons
from relujax.trial import RunResult, is_share

Style = Literal["text", "markdown", "latex"]
NOTHING = "–"


def table_cells(study: Entry, results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the study's table: mean ± std of each metric, the paper's number beside the first, n.

    The first metric is that of the paper, at the epoch that the paper prints. "agrees" means that a t-test on our runs
    cannot tell our mean from the printed one at the level of 0.05; where runs diverged it is not asked. Columns that
    say nothing of any row are left out.
    """
    first = study.metrics[0] if study.metrics else ""
    columns: list[tuple[str, Epoch]] = [(metric, "last") for metric in study.metrics]
    if study.epoch == "best":
        columns.insert(0, (first, "best"))
    header = ["", *(_heading(metric, epoch, study.epoch) for metric, epoch in columns), "n", "diverged"]
    shown_first = 1 + len(columns[:1])  # the row's label, and the metric that the paper prints
    header[shown_first:shown_first] = ["paper", "difference", "agreement"]
    rehearsed = bool(rehearsal_reasons(study, results))
    rows = []
    for label in study.labels:
        runs = results.get(label, ())
        done = [run for run in runs if run.status == "done"]
        spreads = [_spread(_values(done, *column), column[0]) for column in columns]
        diverged = sum(run.status == "diverged" for run in runs)
        beside = _beside_the_paper(study, label, _values(done, first, study.epoch), diverged, rehearsed)
        n = str(len(runs)) if isinstance(study, Measurement) else f"{len(done)}/{study.runs}"
        rows.append([label, *spreads[:1], *beside, *spreads[1:], n, _diverged(runs)])
    for label, number in study.published.items():
        before, after = [NOTHING] * len(columns[:1]), [NOTHING] * (len(columns[1:]) + 2)
        rows.append([label, *before, str(number), NOTHING, "as printed", *after])
    telling = [place for place in range(len(header)) if any(row[place] != NOTHING for row in rows)]
    return [header[place] for place in telling], [[row[place] for place in telling] for row in rows]


def _values(runs: Sequence[RunResult], metric: str, epoch: Epoch) -> list[float]:
    """The metric of each run that has it."""
    return [value for run in runs if not np.isnan(value := run.at(metric, epoch))]


def _beside_the_paper(study: Entry, label: str, values: Sequence[float], diverged: int, rehearsed: bool) -> list[str]:
    """The paper's number, ours minus it, and whether they agree, which those that are left cannot say for the row."""
    reported = study.reported.get(label)
    if reported is None:
        return [NOTHING] * 3
    ours = np.array(values) * (100 if is_share(study.metrics[0]) else 1)
    if not len(ours):
        return [str(reported), NOTHING, NOTHING]
    digits = ".2f" if is_share(study.metrics[0]) else ".3g"
    difference = f"{statistics.mean(ours) - reported.mean:+{digits}}"
    p_value = statistics.differs_from_reported(ours, reported.mean, reported.std, reported.runs)
    if isinstance(study, Measurement):  # of another machine: a test would only say that it is another one
        agreement = NOTHING
    elif rehearsed:
        agreement = "rehearsal"
    elif diverged:
        agreement = f"{diverged} diverged"
    elif np.isnan(p_value):
        agreement = NOTHING
    else:
        agreement = f"{'agrees' if p_value > LEVEL else 'differs'} (p = {p_value:.2g})"
    return [str(reported), difference, agreement]


def table(study: Entry, results: Results, style: Style) -> str:
    """The study's table as plain text, Markdown or LaTeX."""
    header, rows = table_cells(study, results)
    if style == "latex":
        lines = [" & ".join(map(_latex, cells)) + r" \\" for cells in (header, *rows)]
        columns = "l" + "r" * (len(header) - 1)
        top = [rf"\begin{{tabular}}{{{columns}}}", r"\hline", lines[0], r"\hline"]
        return "\n".join([*top, *lines[1:], r"\hline", r"\end{tabular}"]) + "\n"
    if style == "markdown":
        lines = ["| " + " | ".join(map(escape_markdown, cells)) + " |" for cells in (header, *rows)]
        return "\n".join([lines[0], "|" + " --- |" * len(header), *lines[1:]]) + "\n"
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip() for cells in (header, *rows)]
    return "\n".join([lines[0], "  ".join("─" * width for width in widths), *lines[1:]]) + "\n"


def judgements(study: Entry, results: Results) -> list[Judgement]:
    """The verdict on each claim of the study."""
    reasons = rehearsal_reasons(study, results)
    return [judge(stated, results, reasons) for stated in study.claims]


def markdown(study: Entry, results: Results) -> str:
    """The table and the verdicts as Markdown."""
    lines = [f"### {escape_markdown(study.source)}: {escape_markdown(study.question)}", ""]
    if reasons := rehearsal_reasons(study, results):
        lines += [f"**Rehearsal**, not the paper's study: {escape_markdown('; '.join(reasons))}.", ""]
    lines += [table(study, results, "markdown")]
    for judgement in judgements(study, results):
        words, finding = escape_markdown(judgement.stated.words), escape_markdown(judgement.finding)
        lines.append(f"- **{judgement.verdict.value}**: {words} {finding}")
    return "\n".join(lines) + "\n"


def summary(study: Entry, results: Results, width: int = 80) -> Group:
    """What a terminal of `width` columns shows after a run: the table, then each claim with its verdict and finding."""
    parts: list[Text | Group] = [Text(f"{study.source}: {study.question}", style="bold")]
    if reasons := rehearsal_reasons(study, results):
        parts.append(Text(f"Rehearsal, not the paper's study: {'; '.join(reasons)}.", style="yellow"))
    parts.append(grid(*table_cells(study, results), width=width))
    for judgement in judgements(study, results):
        parts.append(Text(f"{judgement.verdict.value.upper()}: {judgement.stated.words}", style="bold"))
        parts.append(Text(f"  {judgement.finding}\n"))
    return Group(*parts)


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> Group:
    """A table for a terminal of `width` columns with every cell whole: what has no room goes into a table below it."""
    labels, *columns = [(_heading_lines(title, cells), *cells) for title, *cells in zip(header, *rows)]
    first = Column(labels[0], width=min(_widest(labels), width // 2 - 2), overflow="fold")
    parts: list[list[tuple[str, ...]]] = [[]]
    room = left = width - 3 - (first.width or 0)
    for cells in columns:
        needed = _widest(cells) + 2  # a space after it and one between columns
        if parts[-1] and needed > left:
            parts.append([])
            left = room
        parts[-1].append(cells)
        left -= needed
    tables = []
    for part in parts:
        others = [Column(cells[0], min_width=_widest(cells), no_wrap=True, justify="right") for cells in part]
        drawn = Table(replace(first), *others, box=SIMPLE, padding=(0, 1, 0, 0))
        for cells in zip(labels[1:], *(cells[1:] for cells in part)):
            drawn.add_row(*map(Text, cells))
        tables.append(drawn)
    return Group(*tables)


def _heading_lines(title: str, cells: Sequence[str]) -> str:
    """A heading in lines that are no wider than the cells below it, or than its longest word."""
    return textwrap.fill(title, max(_widest([*cells, *title.split()]), 1), break_long_words=False)


def _widest(cells: Sequence[str]) -> int:
    return max(len(line) for cell in cells for line in cell.split("\n"))


def _heading(metric: str, epoch: Epoch, of_the_study: Epoch) -> str:
    which = f", {epoch} epoch" if of_the_study == "best" else ""
    return metric.replace("_", " ") + (" (%)" if is_share(metric) else "") + which


def _spread(values: Sequence[float], metric: str) -> str:
    """mean ± std, in percent with two decimals where the metric is a share, else with three digits of the std."""
    if not values:
        return NOTHING
    mean, std = statistics.mean(values), statistics.std(values)
    if is_share(metric):
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


def _diverged(runs: Sequence[RunResult]) -> str:
    """How many runs diverged and where: "2 (steps 12 to 99)"."""
    steps = sorted(run.diverged_at_step or 0 for run in runs if run.status == "diverged")
    if not steps:
        return NOTHING
    where = f"step {steps[0]}" if steps[0] == steps[-1] else f"steps {steps[0]} to {steps[-1]}"
    return f"{len(steps)} ({where})"


def escape_markdown(text: str) -> str:
    """`text` for a cell or paragraph of Markdown, with nothing in it that is markup."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", text)


def _latex(text: str) -> str:
    special = {character: "\\" + character for character in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"±": r"$\pm$", "–": "--"}
    return "".join(special.get(character, character) for character in text)
