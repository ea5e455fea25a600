"""A page from a template: one self-contained HTML file, its style inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from factory.reporting.formatting import FILTERS

TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, **values: Any) -> str:
    """The template ``<template>.html.j2`` with these values; a missing one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    style = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(f"{template}.html.j2").render(style=style, **values)
