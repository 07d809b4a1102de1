"""Pages that are one file: no network, no script, light by day and dark by night."""

from pathlib import Path
from typing import Any

import jinja2

BASE = Path(__file__).parent
"""Holds base.html: head and style sheet of every page."""


def render(template: Path, **values: Any) -> str:
    """A page from a template that extends base.html. Raises jinja2.UndefinedError: it needs another value."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, BASE]), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return templates.get_template(template.name).render(values)
