"""How findings are printed: one file per format, each with `render(report) -> str`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.lint.report import Report

#: What `--format` takes.
NAMES = ("text", "json", "sarif", "junit", "github", "gitlab", "gcc", "md")


def render(name: str, report: Report, paint: Callable[[str, str], str] | None = None) -> str:
    """Return a report in a format, without the last line's end; `paint(text, style)` puts colour on text."""
    module = importlib.import_module(f"{__name__}.{name}")
    words: str = module.render(report, paint) if name == "text" and paint is not None else module.render(report)
    return words
