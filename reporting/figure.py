"""Figures as SVG to stand inside a page: text in the page's font, colours from its style sheet."""

import html
import io
import re
from typing import Any

from matplotlib.figure import Figure

INK, GRID = "#010101", "#020202"
LINES = [f"#0300{number:02x}" for number in range(6)]
IN_PAGE = {INK: "currentColor", GRID: "var(--rule)"} | {
    c: f"var(--line-{n})" for n, c in enumerate(LINES)
}
"""What stands for a colour in the page, where it can be another one by night."""
MARKERS = "osD^vPX"
"""Not as many as colours, so that with more lines than either no two look the same."""
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif", "font.size": 10, "text.color": INK,
    "axes.edgecolor": GRID, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "grid.color": GRID,
    "figure.facecolor": "none", "axes.facecolor": "none", "legend.frameon": False, "axes.spines.top": False,
    "axes.spines.right": False,
}  # fmt: skip
WIDTH_IN = 7.2


def svg(figure: Figure, name: str, description: str) -> str:
    """The figure as one <svg> element.

    Args:
        name: begins every id of it, since ids are the whole page's.
        description: for those who do not see it.
    """
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font(-family)?: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font\1: \2sans-serif", text)
    for stand_in, colour in IN_PAGE.items():
        text = text.replace(stand_in, colour)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)
