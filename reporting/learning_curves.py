"""Learning curves of a run as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Metrics = Sequence[dict[str, float]]
"""Lines of metrics.jsonl."""
LOGARITHMIC = ("loss", "wer", "cer")
"""Metrics with a logarithmic axis."""
PANEL_WIDTH_IN = 4
PANEL_HEIGHT_IN = 3
DPI = 110


def draw_curves(metrics: Metrics, path: Path, title: str) -> None:
    """Draw one panel for each metric, with one line for each split; test scores are left out.

    Args:
        metrics: {"step": ..., "<split>/<metric>": ...} for each logged update.
        path: file of the picture. It is not written if there is nothing to draw.
        title: heading of the picture.
    """
    names = _curve_names(metrics)
    panels = sorted({_metric(name) for name in names})
    if not panels:
        return
    size = (PANEL_WIDTH_IN * len(panels), PANEL_HEIGHT_IN)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        panel_names = [name for name in names if _metric(name) == panel]
        _draw_panel(axis, panel, panel_names, metrics)
    figure.suptitle(title)
    figure.savefig(path, dpi=DPI)


def _curve_names(metrics: Metrics) -> list[str]:
    names: set[str] = set()
    for line in metrics:
        names.update(line)
    names.discard("step")
    # a test score is a single number, not a curve
    curves = [name for name in names if not name.startswith("test/")]
    return sorted(curves)


def _metric(name: str) -> str:
    """train/loss -> loss."""
    return name.split("/")[-1]


def _draw_panel(axis: Axes, panel: str, names: list[str], metrics: Metrics) -> None:
    for name in names:
        # splits are logged at different updates
        lines = [line for line in metrics if name in line]
        steps = [line["step"] for line in lines]
        values = [line[name] for line in lines]
        axis.plot(steps, values, label=name, linewidth=1)
    axis.set(xlabel="update", title=panel)
    axis.set_yscale("log" if panel in LOGARITHMIC else "linear")
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
