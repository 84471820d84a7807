"""Figures of a study: one panel beside the other, rows by colour, mean line and std band over runs."""

import io
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from relujax import statistics
from relujax.claims import Results, variance_over_epochs
from relujax.errors import need
from relujax.study import Bars, ByDepth, Curves, Distribution, Entry, Images, Lines, Profile, rehearsal_reasons
from relujax.trial import RunResult, is_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, told apart with any form of colour blindness, dark enough on white; then the line styles.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = ("-", "--", ":", "-.")
WIDTH, HEIGHT = 5.2, 4.0  # of a panel, inches


def draw(study: Entry, results: Results) -> "Figure":
    """The study's panels as one Matplotlib figure, three to a line; one legend where they show the same rows."""
    need("matplotlib", extra="report")
    from matplotlib.figure import Figure

    columns = 2 if len(study.panels) == 4 else min(len(study.panels), 3)
    lines = -(-len(study.panels) // columns)
    width = max(WIDTH, 6.4 / columns)
    figure = Figure(figsize=(width * columns, HEIGHT * lines), layout="constrained")
    if reasons := rehearsal_reasons(study, results):  # a picture goes where its table does not
        said = textwrap.fill(f"Rehearsal: {'; '.join(reasons)}", int(width * columns / 0.07))  # inches
        figure.suptitle(said, fontsize=8, color="gray")
    parts = np.ravel(figure.subfigures(lines, columns, squeeze=False))
    legends: list[tuple[Any, dict[str, Any]]] = []
    for part, panel in zip(parts, study.panels):
        if isinstance(panel, Images):
            _images(part, panel, results)
            continue
        axes = part.subplots()
        match panel:
            case Curves():
                _curves(axes, panel, results)
            case Distribution():
                _distribution(axes, panel, results)
            case Bars():
                _bars(axes, panel, study, results)
            case ByDepth():
                _by_depth(axes, panel, study, results)
            case Profile():
                _profile(axes, panel, study, results)
            case Lines():
                _lines(axes, panel, results)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_ylabel(textwrap.fill(axes.get_ylabel(), 34 if isinstance(panel, Bars) else 46))
        entries = _legend(axes)
        if not any(np.size(line.get_xdata()) for line in axes.get_lines()) and not axes.containers:
            axes.text(0.5, 0.5, "nothing to show yet", transform=axes.transAxes, ha="center", color="gray")
            entries = {}
        legends.append((part, entries))
    shared = len(study.panels) == len(legends) > 1 and len({tuple(entries) for _, entries in legends}) == 1
    for part, entries in [(figure, legends[0][1])] if shared else legends:
        if entries:
            longest = max(map(len, entries))
            room = width * (columns if shared else 1)
            columns_of_legend = max(1, min(len(entries), int(room / (0.055 * longest + 0.55)), 4))  # inches
            part.legend(
                list(entries.values()),
                list(entries),
                loc="outside lower center",
                ncols=columns_of_legend,
                frameon=False,
                fontsize=8,
            )
    return figure


def render(figure: "Figure", form: str) -> bytes:
    """The figure as "svg" or "png", the same bytes for the same figure."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "relujax", "svg.fonttype": "none"}):
        metadata = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(buffer, format=form, dpi=160, metadata=metadata)
    return buffer.getvalue()


def files(study: Entry, results: Results) -> dict[str, bytes]:
    """{"svg": …, "png": …}; nothing where no run is done yet."""
    if not study.panels or not any(run.status == "done" for runs in results.values() for run in runs):
        return {}
    figure = draw(study, results)
    return {form: render(figure, form) for form in ("svg", "png")}


def inline(svg: bytes, prefix: str) -> str:
    """An SVG figure as part of a page: no id of another figure, no outside font, black and white are the page's."""
    text = svg.decode()
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text[text.index("<svg") :], flags=re.S)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'((?:href="|url\()#)', rf"\1{prefix}-", text)
    text = re.sub(r"; font-family: [^;\"]*", "", text)
    text = re.sub(r"\n\s+", "\n", text)
    text = text.replace("#000000", "currentColor").replace("fill: #ffffff", "fill: none")
    # A hundredth of a point is finer than any screen, and the page half the size.
    text = re.sub(r' d="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]).replace(" \n", " "), text)
    return re.sub(r' width="(\S+?)pt" height="\S+"', r' style="--width: \1pt"', text, count=1)


def _curves(axes: "Axes", panel: Curves, results: Results) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high, longest = np.inf, -np.inf, 1
    shown = {label: runs for label, runs in results.items() if not panel.rows or label in panel.rows}
    names = _names(shown, panel.label)
    for label, (colour, style_of_row) in _looks(shown, results, styled=len(panel.metrics) == 1).items():
        runs = shown[label]
        for position, metric in enumerate(panel.metrics):
            style = STYLES[position] if position else style_of_row
            named = _with_failures(names[label], runs) if position == 0 else None
            curves = _stack(runs, metric)
            if not len(curves):
                if named and any(run.status == "diverged" for run in runs):  # seen in the legend at least
                    axes.plot([], [], style, color=colour, linewidth=1.4, label=named)
                continue
            epochs = np.arange(1, curves.shape[1] + 1)
            longest = max(longest, len(epochs))
            middle = curves.mean(axis=0)
            spread = curves.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros_like(middle)
            marker = "o" if len(epochs) == 1 else None  # a line of one point cannot be seen
            axes.plot(epochs, middle, style, color=colour, linewidth=1.4, marker=marker, markersize=4, label=named)
            bottom = middle - spread
            if panel.log:  # a band that reaches zero has no lower edge on a logarithmic axis
                bottom = np.maximum(bottom, middle / 10)
            axes.fill_between(epochs, bottom, middle + spread, color=colour, alpha=0.18, linewidth=0)
            low, high = min(low, middle.min()), max(high, middle.max())
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if longest == 1:
        axes.set_xticks([1])
    axes.set_ylabel(_with_unit(panel.label, panel.metrics[0]))
    if panel.log and 0 < low < high < np.inf:
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis, few=high / low < 30)
    if len(panel.metrics) > 1:
        words = ", ".join(
            f"{name.replace('_', ' ')} {look}"
            for name, look in zip(panel.metrics, ("solid", "dashed", "dotted", "dash-dotted"))
        )
        axes.set_title(words, fontsize=9)


def _looks(rows: Iterable[str], every_row: Iterable[str], *, styled: bool = True) -> dict[str, tuple[str, str]]:
    """Row → (colour, line style): "ELU, 20" has the colour of all rows "ELU, …" of the figure and the style of ", 20".

    Where there are more of either than can be told apart, or styles are taken (not `styled`), by the row's place.
    """
    parts = {row: re.split(r"(?=, | \+ )", row, maxsplit=1) for row in (*every_row, *rows)}
    families = list(dict.fromkeys(family for family, *_ in parts.values()))
    variants = list(dict.fromkeys("".join(parts[row][1:]) for row in rows))
    if len(families) <= len(COLOURS) and len(variants) <= (len(STYLES) if styled else 1):
        return {
            row: (COLOURS[families.index(parts[row][0])], STYLES[variants.index("".join(parts[row][1:]))])
            for row in rows
        }
    return {
        row: (COLOURS[place % len(COLOURS)], STYLES[place // len(COLOURS) % len(STYLES)])
        for place, row in enumerate(rows)
    }


def _names(rows: Iterable[str], label: str) -> dict[str, str]:
    """Row → its name in a panel, without the parts that all its rows share and that its label says: ", 20 layers"."""
    parts = {row: row.split(", ") for row in rows}
    said = [part for part in next(iter(parts.values()), [])[1:] if re.search(rf"(?<!\w){re.escape(part)}(?!\w)", label)]
    common = {part for part in said if all(part in own[1:] for own in parts.values())}
    return {row: ", ".join([own[0], *(part for part in own[1:] if part not in common)]) for row, own in parts.items()}


def _with_failures(name: str, runs: Sequence[RunResult]) -> str:
    failed = sum(run.status == "diverged" for run in runs)
    return f"{name} ({failed} of {len(runs)} diverged)" if failed else name


def _legend(axes: "Axes") -> dict[str, Any]:
    """Name → handle; the paper's series after our own."""
    entries = {name: handle for handle, name in zip(*axes.get_legend_handles_labels())}
    return dict(sorted(entries.items(), key=lambda entry: entry[0].endswith("(paper)")))


def _plain_numbers(axis: Any, *, few: bool) -> None:
    """0.02, 0.05, 0.1 … on a logarithmic axis, where the axis is too short for powers of ten to say much."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _stack(runs: Sequence[RunResult], metric: str) -> np.ndarray:
    """Finite curves of the runs that went the whole way, (runs, epochs); shares in percent."""
    curves = [run.curve(metric) for run in runs if run.status == "done"]
    return np.array([curve for curve in curves if np.isfinite(curve).all()]) * (100 if is_share(metric) else 1)


def _with_unit(label: str, metric: str) -> str:
    return f"{label} (%)" if is_share(metric) and "%" not in label else label


def _values(study: Entry, runs: Sequence[RunResult], metric: str) -> np.ndarray:
    """One finite value per finished run, at the epoch that the paper prints; shares in percent."""
    values = np.array([run.at(metric, study.epoch) for run in runs if run.status == "done"])
    return values[np.isfinite(values)] * (100 if is_share(metric) else 1)


def _bars(axes: "Axes", panel: Bars, study: Entry, results: Results) -> None:
    """Bars from zero; shares, whose differences of a percent would not show there, as points beside the paper's."""
    labels = [label for label in study.labels if not panel.rows or label in panel.rows]
    names = _names(labels, panel.label)
    printed = study.reported if panel.metric == study.metrics[0] else {}
    as_points = is_share(panel.metric)
    own = {"fmt": "o", "color": COLOURS[0], "markersize": 5, "capsize": 3}
    theirs = {"fmt": "D", "color": COLOURS[1], "markersize": 5, "capsize": 3}
    lowest = 0.0
    for place, label in enumerate(labels):
        values = _values(study, results.get(label, ()), panel.metric)
        spread = statistics.std(values) if len(values) > 1 else None
        beside = 0.12 if as_points and label in printed else 0.0
        if len(values) and as_points:
            axes.errorbar(place - beside, np.mean(values), yerr=spread, **own)
        elif len(values):
            axes.bar(place, np.mean(values), 0.7, yerr=spread, capsize=3, color=COLOURS[0], alpha=0.75)
            lowest = min(lowest, np.mean(values))
        if number := printed.get(label):
            axes.errorbar(place + beside, number.mean, yerr=number.std or None, **theirs)
    if any(label in printed for label in labels):
        axes.plot([], [], "o" if as_points else "s", color=COLOURS[0], label="ours")
        axes.plot([], [], "D", color=COLOURS[1], label="paper")
    ticks = [_with_failures(names[label], results.get(label, ())) for label in labels]
    axes.set_xticks(range(len(labels)), ticks, rotation=30, ha="right", fontsize=8)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_ylabel(_with_unit(panel.label, panel.metric))
    if not as_points and lowest >= 0:
        axes.set_ylim(bottom=0)


def _by_depth(axes: "Axes", panel: ByDepth, study: Entry, results: Results) -> None:
    looks = _looks(panel.series, results)
    for name, places in panel.series.items():
        colour, style = looks[name]
        found = {depth: _values(study, results.get(label, ()), panel.metric) for depth, label in places.items()}
        if any(map(len, found.values())):
            # Where no run has ended the line is broken.
            means = [np.mean(found[depth]) if len(found[depth]) else np.nan for depth in sorted(found)]
            spreads = [np.std(found[depth], ddof=1) if len(found[depth]) > 1 else 0.0 for depth in sorted(found)]
            look = {"fmt": f"o{style}", "color": colour, "capsize": 3, "markersize": 4}
            axes.errorbar(sorted(found), np.array(means), np.array(spreads), label=name, **look)
        printed = {depth: study.reported[label].mean for depth, label in places.items() if label in study.reported}
        if printed and panel.metric == study.metrics[0]:
            depths = sorted(printed)
            paper = f"{name} (paper)"
            axes.plot(depths, [printed[depth] for depth in depths], ":D", color=colour, alpha=0.5, ms=4, label=paper)
    axes.set_xticks(sorted({depth for places in panel.series.values() for depth in places}))
    axes.set_xlabel(panel.horizontal)
    axes.set_ylabel(_with_unit(panel.label, panel.metric))


def _profile(axes: "Axes", panel: Profile, study: Entry, results: Results) -> None:
    labels = [label for label in study.labels if not panel.rows or label in panel.rows]
    places = range(1, len(panel.metrics) + 1)
    for label, (colour, style) in _looks(labels, study.labels).items():
        values = [_values(study, results.get(label, ()), metric) for metric in panel.metrics]
        if all(map(len, values)):
            means = np.array([np.mean(own) for own in values])
            spreads = np.array([statistics.std(own) if len(own) > 1 else 0.0 for own in values])
            # No further than any run: of runs that are 0 or 1 the std would reach beyond.
            reach = [means - [own.min() for own in values], [own.max() for own in values] - means]
            look = {"fmt": f"o{style}", "color": colour, "capsize": 3, "markersize": 4}
            axes.errorbar(places, means, np.minimum(reach, spreads), label=label, **look)
    axes.set_xticks(places)
    axes.set_xlabel(panel.horizontal)
    axes.set_ylabel(panel.label)


def _lines(axes: "Axes", panel: Lines, results: Results) -> None:
    for label, (colour, style) in _looks(results, results).items():
        runs = results[label]
        if runs and panel.x in runs[0].unit_values and panel.y in runs[0].unit_values:
            x, y = (runs[0].unit_values[name][-1] for name in (panel.x, panel.y))
            axes.plot(x, y, style, color=colour, linewidth=1.5, label=label)
    axes.set_xlabel(panel.horizontal)
    axes.set_ylabel(panel.label)


def _images(part: Any, panel: Images, results: Results) -> None:
    """Up to eight images of each row, dark to light between the smallest and the largest value of each."""
    found = {
        label: seen[-1]
        for label, runs in results.items()
        for seen in [run.unit_values[panel.images] for run in runs if panel.images in run.unit_values][:1]
    }
    part.suptitle(panel.label, fontsize=9)
    if not found:
        return
    columns = min(8, max(len(images) for images in found.values()))
    grid = part.subplots(len(found), columns, squeeze=False)
    for line, (label, images) in zip(grid, found.items()):
        for axes, image in zip(line, images[:columns]):
            axes.imshow(image, cmap="viridis", interpolation="nearest")
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)


def _distribution(axes: "Axes", panel: Distribution, results: Results) -> None:
    """The share of units whose variance is at most x: zeros (units that never move) count, to the left of the axis."""
    axes.set_xscale("log")
    for label, (colour, style) in _looks(results, results).items():
        done = [run for run in results[label] if run.status == "done" and panel.probe in run.unit_values]
        values = [variance_over_epochs(run, panel.probe, panel.of) for run in done]
        values = [own for own in values if np.isfinite(own).all()]  # one epoch has no variance
        if not values:
            continue
        values = np.sort(np.concatenate(values))
        still = np.mean(values == 0)
        share = np.arange(1, len(values) + 1) / len(values)
        name = f"{label} ({still:.0%} of units never move)" if still > 0 else label
        seen = values > 0
        axes.plot(values[seen], share[seen], style, color=colour, linewidth=1.6, label=name)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(panel.label)
    axes.set_ylabel("share of units with at most this variance")
