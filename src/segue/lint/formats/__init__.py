"""How findings are printed: one file per format, each with `render(report) -> str`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.lint.report import Report

#: What `--format` takes.
NAMES = ("text", "json", "sarif", "junit", "github", "gitlab", "gcc", "md")


def render(name: str, report: Report, paint: Callable[[str, str], str] | None = None, width: int | None = None) -> str:
    """Return a report in a format, without the last line's end.

    For text, `paint(text, style)` puts colour on it, and `width` is that of the terminal that shows it.
    """
    module = importlib.import_module(f"{__name__}.{name}")
    words: str = module.render(report, paint, width) if name == "text" and paint else module.render(report)
    return words
