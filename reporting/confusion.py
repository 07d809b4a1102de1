"""Figure of a confusion matrix and of a threshold curve."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

ANNOTATED_THRESHOLDS = (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9)
LINEAR_BELOW = 0.001
"""The axis of false positives is linear below this rate and logarithmic above."""

Matrix = Mapping[tuple[str, str], int]
"""(label, predicted class) -> count, for every combination."""
CurvePoint = tuple[float, float, float]
"""Threshold, recall, false positive rate."""


def draw_confusion(matrix: Matrix, points: Sequence[CurvePoint], title: str) -> Figure:
    """Draw a confusion matrix on the left and a threshold curve on the right."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    left, right = figure.subplots(1, 2)
    _draw_matrix(left, matrix)
    _draw_curve(right, points)
    return figure


def _draw_matrix(axes: Axes, matrix: Matrix) -> None:
    """Cells are shaded by their share of the label's cases and show the count."""
    labels = list(dict.fromkeys(label for label, _ in matrix))
    classes = list(dict.fromkeys(predicted for _, predicted in matrix))
    shares = [_shares(matrix, label, classes) for label in labels]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_xlabel("named")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylabel("label")
    for (label, predicted), count in matrix.items():
        y = labels.index(label)
        x = classes.index(predicted)
        # light text on dark cells
        colour = "white" if shares[y][x] > 0.5 else "black"
        axes.text(x, y, f"{count:,}", ha="center", va="center", color=colour)


def _shares(matrix: Matrix, label: str, classes: Sequence[str]) -> list[float]:
    """Share of each predicted class in the cases of a label."""
    counts = [matrix[label, predicted] for predicted in classes]
    # A label without cases has shares of zero.
    total = max(1, sum(counts))
    return [count / total for count in counts]


def _draw_curve(axes: Axes, points: Sequence[CurvePoint]) -> None:
    """Recall against false positives, with some thresholds annotated."""
    recalls = [recall for _, recall, _ in points]
    rates = [rate for _, _, rate in points]
    axes.plot(rates, recalls, marker=".", markersize=4)
    for threshold, recall, rate in points:
        if threshold in ANNOTATED_THRESHOLDS:
            axes.annotate(f"{threshold:g}", (rate, recall), fontsize=8)
    axes.set_xscale("symlog", linthresh=LINEAR_BELOW)
    axes.set_xlabel("false positives among other slices")
    axes.set_ylabel("recall of response slices")
    axes.set_ylim(-0.02, 1.02)
    axes.set_title("threshold on the probability of response", fontsize=9)
    axes.grid(color="#dddddd", linewidth=0.5)
