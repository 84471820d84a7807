"""Figures of a study: one panel beside the other, rows by colour, mean line and std band over runs."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from relujax import statistics
from relujax.claims import Results, variance_over_epochs
from relujax.study import Bars, ByDepth, Curves, Distribution, Images, Lines, Measurement, Study
from relujax.trial import RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, told apart with any form of colour blindness, dark enough on white; then the line styles.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = ("-", "--", ":", "-.")


def draw(study: Study | Measurement, results: Results) -> "Figure":
    """The study's panels as one Matplotlib figure, three to a line; one legend where they show the same rows."""
    from matplotlib.figure import Figure

    columns = min(len(study.panels), 3)
    lines = -(-len(study.panels) // columns)
    figure = Figure(figsize=(max(5.2 * columns, 6.4), 4.0 * lines), layout="constrained")
    parts = np.ravel(figure.subfigures(lines, columns, squeeze=False))
    legends: list[tuple[Any, list]] = []
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
            case Lines():
                _lines(axes, panel, results)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        legends.append((part, list(zip(*axes.get_legend_handles_labels()))))
    names = [[label for _, label in entries] for _, entries in legends]
    shared = len(names) > 1 and len(parts) == len(names) and all(own == names[0] for own in names)
    for part, entries in [(figure, legends[0][1])] if shared else legends:
        if entries:
            ncols = 4 if shared else 2
            place = "outside lower center"
            part.legend(*zip(*entries), loc=place, ncols=min(len(entries), ncols), frameon=False, fontsize=8)
    return figure


def is_share(metric: str) -> bool:
    """Whether the metric is a share of the images, which is printed in percent."""
    return metric.endswith(("_error", "_accuracy")) and metric.startswith(("train_", "validation_", "test_"))


def render(figure: "Figure", form: str) -> bytes:
    """The figure as "svg" or "png", the same bytes for the same figure."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "relujax", "svg.fonttype": "none"}):
        metadata = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(buffer, format=form, dpi=160, metadata=metadata)
    return buffer.getvalue()


def _curves(axes: "Axes", panel: Curves, results: Results) -> None:
    low, high = np.inf, -np.inf
    shown = {label: runs for label, runs in results.items() if not panel.rows or label in panel.rows}
    for row, (label, runs) in enumerate(shown.items()):
        colour = COLOURS[row % len(COLOURS)]
        for position, metric in enumerate(panel.metrics):
            curves = _stack(runs, metric)
            if not len(curves):
                continue
            epochs = np.arange(1, curves.shape[1] + 1)
            middle = curves.mean(axis=0)
            spread = curves.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros_like(middle)
            # Rows beyond the palette repeat its colours with another style, where the style is not taken by the metric.
            style = STYLES[(position or row // len(COLOURS)) % len(STYLES)]
            marker = "o" if len(epochs) == 1 else None  # a line of one point cannot be seen
            named = label if position == 0 else None
            axes.plot(epochs, middle, style, color=colour, linewidth=1.4, marker=marker, markersize=4, label=named)
            bottom = middle - spread
            if panel.log:  # a band that reaches zero has no lower edge on a logarithmic axis
                bottom = np.maximum(bottom, middle / 10)
            axes.fill_between(epochs, bottom, middle + spread, color=colour, alpha=0.18, linewidth=0)
            low, high = min(low, middle.min()), max(high, middle.max())
    axes.set_xlabel("epoch")
    axes.set_ylabel(_with_unit(panel.label, panel.metrics[0]))
    if panel.log and 0 < low < high < np.inf:
        axes.set_yscale("log")
    if len(panel.metrics) > 1:
        words = ", ".join(
            f"{name.replace('_', ' ')} {look}"
            for name, look in zip(panel.metrics, ("solid", "dashed", "dotted", "dash-dotted"))
        )
        axes.set_title(words, fontsize=9)


def _stack(runs: Sequence[RunResult], metric: str) -> np.ndarray:
    """Finite curves of the runs that went the whole way, (runs, epochs); shares in percent."""
    curves = [run.curve(metric) for run in runs if run.status == "done"]
    return np.array([curve for curve in curves if np.isfinite(curve).all()]) * (100 if is_share(metric) else 1)


def _with_unit(label: str, metric: str) -> str:
    return f"{label} (%)" if is_share(metric) and "%" not in label else label


def _values(study: Study | Measurement, runs: Sequence[RunResult], metric: str) -> np.ndarray:
    """One finite value per finished run, at the epoch that the paper prints; shares in percent."""
    values = np.array([run.at(metric, study.epoch) for run in runs if run.status == "done"])
    return values[np.isfinite(values)] * (100 if is_share(metric) else 1)


def _bars(axes: "Axes", panel: Bars, study: Study | Measurement, results: Results) -> None:
    labels = [label for label in study.labels if not panel.rows or label in panel.rows]
    lowest = np.inf
    for place, label in enumerate(labels):
        values = _values(study, results.get(label, ()), panel.metric)
        if len(values):
            spread = statistics.std(values) if len(values) > 1 else None
            axes.bar(place, np.mean(values), 0.7, yerr=spread, capsize=3, color=COLOURS[0], alpha=0.75)
            lowest = min(lowest, float(np.min(values)))
        number = study.reported.get(label)
        if number is not None and panel.metric == study.metrics[0]:
            error = number.std or None
            axes.errorbar(place, number.mean, yerr=error, fmt="D", color=COLOURS[1], markersize=5, capsize=3)
            lowest = min(lowest, number.mean)
    axes.plot([], [], "s", color=COLOURS[0], alpha=0.75, label="ours")
    if any(label in study.reported for label in labels) and panel.metric == study.metrics[0]:
        axes.plot([], [], "D", color=COLOURS[1], label="paper")
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", fontsize=8)
    axes.set_ylabel(_with_unit(panel.label, panel.metric))
    if is_share(panel.metric) and np.isfinite(lowest):  # differences of a percent would not show from zero on
        axes.set_ylim(bottom=max(0.0, 0.9 * lowest))


def _by_depth(axes: "Axes", panel: ByDepth, study: Study | Measurement, results: Results) -> None:
    for row, (name, places) in enumerate(panel.series.items()):
        colour, style = COLOURS[row % len(COLOURS)], STYLES[row // len(COLOURS) % len(STYLES)]
        found = {depth: _values(study, results.get(label, ()), panel.metric) for depth, label in places.items()}
        found = {depth: values for depth, values in sorted(found.items()) if len(values)}
        if found:
            means = [np.mean(values) for values in found.values()]
            spreads = [np.std(values, ddof=1) if len(values) > 1 else 0.0 for values in found.values()]
            look = {"fmt": f"o{style}", "color": colour, "capsize": 3, "markersize": 4}
            axes.errorbar(list(found), means, np.array(spreads), label=name, **look)
        printed = {depth: study.reported[label].mean for depth, label in places.items() if label in study.reported}
        if printed and panel.metric == study.metrics[0]:
            depths = sorted(printed)
            paper = f"{name} (paper)"
            axes.plot(depths, [printed[depth] for depth in depths], ":D", color=colour, alpha=0.5, ms=4, label=paper)
    axes.set_xticks(sorted({depth for places in panel.series.values() for depth in places}))
    axes.set_xlabel(panel.horizontal)
    axes.set_ylabel(_with_unit(panel.label, panel.metric))


def _lines(axes: "Axes", panel: Lines, results: Results) -> None:
    for row, (label, runs) in enumerate(results.items()):
        if runs and panel.x in runs[0].unit_values and panel.y in runs[0].unit_values:
            x, y = (runs[0].unit_values[name][-1] for name in (panel.x, panel.y))
            style = STYLES[row // len(COLOURS) % len(STYLES)]
            axes.plot(x, y, style, color=COLOURS[row % len(COLOURS)], linewidth=1.5, label=label)
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
    for row, (label, runs) in enumerate(results.items()):
        done = [run for run in runs if run.status == "done" and panel.probe in run.unit_values]
        if not done:
            continue
        values = np.sort(np.concatenate([variance_over_epochs(run, panel.probe, panel.of) for run in done]))
        still = np.mean(values == 0)
        share = np.arange(1, len(values) + 1) / len(values)
        name = f"{label} ({still:.0%} of units never move)" if still > 0 else label
        seen = values > 0
        axes.plot(values[seen], share[seen], color=COLOURS[row % len(COLOURS)], linewidth=1.6, label=name)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(panel.label)
    axes.set_ylabel("share of units with at most this variance")
