"""Histogram of times for the page of a corpus, as SVG from plain numbers."""

WIDTH = 800
BAR_AREA_HEIGHT = 180
TOP = 20
"""Height reserved above the bars for the caption."""
LABEL_EVERY = 4
"""Bars per label of the axis."""


def draw(counts: list[int], edges_s: list[float], what: str = "utterances") -> str:
    """Draw a histogram.

    Args:
        counts: number of things per bar.
        edges_s: borders of the bars in seconds, one more than there are bars.
        what: the things, for the caption.

    Returns:
        An SVG element.
    """
    step = WIDTH / len(counts)
    most = max(counts)
    bars = ""
    labels = ""
    for i, count in enumerate(counts):
        height = BAR_AREA_HEIGHT * count / most
        top = TOP + BAR_AREA_HEIGHT - height
        bars += (
            f'<rect x="{i * step:.1f}" y="{top:.1f}" width="{step - 2:.1f}" '
            f'height="{height:.1f}" fill="#4a90c2">'
            f"<title>{count:,} of {edges_s[i]:.1f} to {edges_s[i + 1]:.1f} s</title></rect>"
        )
        if i % LABEL_EVERY == 0:
            labels += (
                f'<text x="{i * step:.1f}" y="216" font-size="13" fill="currentColor">'
                f"{edges_s[i]:.1f} s</text>"
            )
    caption = f'<text x="0" y="14" font-size="13" fill="currentColor">most: {most:,} {what}</text>'
    return f'<svg viewBox="0 0 800 222" role="img">{caption}{bars}{labels}</svg>'
