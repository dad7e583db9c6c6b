"""How findings are printed: one file per format, each with `render(report) -> str`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segue.lint.report import Report

#: What `--format` takes besides "text".
NAMES = ("text", "json", "sarif", "junit", "github", "gitlab", "gcc", "md")


def render(name: str, report: Report) -> str:
    """Return a report in a format, without the last line's end."""
    text: str = importlib.import_module(f"{__name__}.{name}").render(report)
    return text
