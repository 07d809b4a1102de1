"""Figure of a confusion matrix and of a threshold curve."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

ANNOTATED_THRESHOLDS = (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9)
LINEAR_BELOW = 0.001
"""The axis of false positives is linear below this rate and logarithmic above."""
DARK_SHARE = 0.5
"""Cells with a larger share than this are so dark that their text is white."""

Matrix = Mapping[tuple[str, str], int]
"""(label, predicted class) -> count, for every combination."""
CurvePoint = tuple[float, float, float]
"""Threshold, recall, false positive rate."""


def draw_confusion(matrix: Matrix, points: Sequence[CurvePoint], title: str) -> Figure:
    """Draw a confusion matrix on the left and a threshold curve on the right.

    Args:
        matrix: counts of all combinations; the labels and classes keep their order.
        points: of the curve, in the order of the thresholds.
        title: of the figure.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    left, right = figure.subplots(1, 2)
    _draw_matrix(left, matrix)
    _draw_curve(right, points)
    return figure


def _draw_matrix(axes: Axes, matrix: Matrix) -> None:
    """Draw cells that are shaded by their share of the label's cases and show the count."""
    # A dict removes repetitions and keeps the order of the matrix.
    labels = list(dict.fromkeys(label for label, _ in matrix))
    classes = list(dict.fromkeys(predicted for _, predicted in matrix))
    shares = [_shares(matrix, label, classes) for label in labels]  # (labels, classes)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylabel("label")
    for y, label in enumerate(labels):
        for x, predicted in enumerate(classes):
            _write_count(axes, x, y, matrix[label, predicted], shares[y][x])


def _write_count(axes: Axes, x: int, y: int, count: int, share: float) -> None:
    """Write the count of a cell in a colour that is legible on its shade."""
    colour = "black"
    if share > DARK_SHARE:
        colour = "white"
    text = f"{count:,}"
    axes.text(
        x,
        y,
        text,
        color=colour,
        ha="center",
        va="center",
    )


def _shares(matrix: Matrix, label: str, classes: Sequence[str]) -> list[float]:
    """Share of each predicted class in the cases of a label."""
    counts = [matrix[label, predicted] for predicted in classes]
    # A label without cases has shares of zero.
    total = max(1, sum(counts))
    return [count / total for count in counts]


def _draw_curve(axes: Axes, points: Sequence[CurvePoint]) -> None:
    """Draw recall against false positives, with some thresholds annotated."""
    recalls = []
    rates = []
    for threshold, recall, rate in points:
        recalls.append(recall)
        rates.append(rate)
        if threshold in ANNOTATED_THRESHOLDS:
            axes.annotate(f"{threshold:g}", (rate, recall), fontsize=8)
    axes.plot(rates, recalls, marker=".", markersize=4)
    # Most of a session is silence, so useful rates of false positives are far below 1 %.
    axes.set_xscale("symlog", linthresh=LINEAR_BELOW)
    axes.set_xlabel("false positives among other slices")
    axes.set_ylabel("recall of response slices")
    axes.set_ylim(-0.02, 1.02)
    axes.set_title("threshold on the probability of response", fontsize=9)
    axes.grid(color="#dddddd", linewidth=0.5)
