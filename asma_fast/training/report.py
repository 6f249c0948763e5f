"""Pages that need no other file: text, tables and pictures in one HTML document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from asma_fast.training.checkpoint import write_text
from asma_fast.training.pictures import data_uri


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fills a template of ``asma_fast/training/templates``; figures become pictures inside the page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("asma_fast.training"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["picture"] = _picture
    environment.filters["percent"] = _percent
    write_text(path, environment.get_template(template).render(**values))


def _picture(figure: Figure) -> str:
    return data_uri(figure)


def _percent(share: float | None) -> str:
    return "–" if share is None or share != share else f"{100 * share:.1f}"
