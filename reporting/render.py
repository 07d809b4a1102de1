"""Pages in a single file: no network, no script, with a light and a dark colour scheme."""

from pathlib import Path
from typing import Any

import jinja2

TEMPLATE_FOLDER = Path(__file__).parent
"""Holds base.html: head and style sheet of every page."""


def render(template: Path, **values: Any) -> str:
    """Render a page from a template that extends base.html.

    Raises:
        jinja2.UndefinedError: the template needs a value that is missing.
    """
    loader = jinja2.FileSystemLoader([template.parent, TEMPLATE_FOLDER])
    # StrictUndefined: a misspelt name is an error rather than an empty string.
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(values)
