"""Figures of a study: one panel beside the other, rows by colour, mean line and std band over runs."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from relujax.claims import Results, variance_over_epochs
from relujax.study import Curves, Distribution, Study
from relujax.trial import RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, told apart with any form of colour blindness, dark enough on white; then the line styles.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = ("-", "--", ":", "-.")


def draw(study: Study, results: Results) -> "Figure":
    """The study's panels as one Matplotlib figure."""
    from matplotlib.figure import Figure

    panels = study.panels
    figure = Figure(figsize=(5.2 * len(panels), 3.9), layout="constrained")
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels):
        if isinstance(panel, Curves):
            _curves(axes, panel, results)
        else:
            _distribution(axes, panel, results)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
    rows = len(results)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(rows, 4), frameon=False, fontsize=9)
    return figure


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
    for row, (label, runs) in enumerate(results.items()):
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
            axes.plot(epochs, middle, style, color=colour, linewidth=1.4, label=label if position == 0 else None)
            bottom = middle - spread
            if panel.log:  # a band that reaches zero has no lower edge on a logarithmic axis
                bottom = np.maximum(bottom, middle / 10)
            axes.fill_between(epochs, bottom, middle + spread, color=colour, alpha=0.18, linewidth=0)
            low, high = min(low, middle.min()), max(high, middle.max())
    axes.set_xlabel("epoch")
    axes.set_ylabel(panel.label)
    if panel.log and 0 < low < high < np.inf:
        axes.set_yscale("log")
    if len(panel.metrics) > 1:
        words = ", ".join(
            f"{name.replace('_', ' ')} {look}"
            for name, look in zip(panel.metrics, ("solid", "dashed", "dotted", "dash-dotted"))
        )
        axes.set_title(words, fontsize=9)


def _stack(runs: Sequence[RunResult], metric: str) -> np.ndarray:
    """Finite curves of the runs that went the whole way, (runs, epochs)."""
    curves = [run.curve(metric) for run in runs if run.status == "done"]
    return np.array([curve for curve in curves if np.isfinite(curve).all()])


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
