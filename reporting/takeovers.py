"""Figure of false take-overs against latency, a curve for each turn-taking system."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

XY = tuple[float, float]
"""Latency in seconds, share of the pauses that are taken over."""


def draw_takeovers(
    curves: Mapping[str, Sequence[XY]], marks: Mapping[str, Mapping[str, XY]], title: str
) -> Figure:
    """Draw the curves of systems. Lower and further left is better.

    Args:
        curves: system -> points by increasing threshold.
        marks: system -> setting that people use -> its point.
        title: of the figure.
    """
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots()
    for system, points in curves.items():
        latencies_s = [latency_s for latency_s, _ in points]
        rates = [rate for _, rate in points]
        [line] = axes.plot(latencies_s, rates, marker=".", markersize=3, linewidth=1, label=system)
        for setting, (latency_s, rate) in marks.get(system, {}).items():
            axes.plot([latency_s], [rate], marker="o", color=line.get_color())
            axes.annotate(
                setting, (latency_s, rate), fontsize=8, xytext=(4, 4), textcoords="offset points"
            )
    axes.set_xlabel("latency after the end of a turn, s")
    axes.set_ylabel("false take-overs in pauses")
    axes.set_xlim(left=0)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.legend(fontsize=8)
    return figure
