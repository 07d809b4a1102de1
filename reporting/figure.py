"""Figures as SVG inside a page: text in the page's font, colours from its style sheet."""

import html
import io
import re
from typing import Any

from matplotlib.figure import Figure

# Placeholder colours, which `svg` replaces with those of the page.
INK = "#010101"
GRID = "#020202"
LINES = [f"#0300{number:02x}" for number in range(6)]
IN_PAGE = {INK: "currentColor", GRID: "var(--rule)"}
"""Placeholder -> colour of the page, which depends on the colour scheme."""
IN_PAGE.update({colour: f"var(--line-{number})" for number, colour in enumerate(LINES)})
MARKERS = "osD^vPX"
"""Their number differs from that of the colours, so that further lines combine them differently."""
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
WIDTH_IN = 7.2


def svg(figure: Figure, name: str, description: str) -> str:
    """Convert a figure to one <svg> element.

    Args:
        figure: the figure, drawn in `STYLE`.
        name: prefix of all its ids, which must be unique within the page.
        description: text for screen readers.
    """
    out = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(out, format="svg", metadata=no_metadata)
    text = out.getvalue()
    # Without the XML declaration, which is not allowed inside a page.
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font(-family)?: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font\1: \2sans-serif", text)
    for placeholder, colour in IN_PAGE.items():
        text = text.replace(placeholder, colour)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)
