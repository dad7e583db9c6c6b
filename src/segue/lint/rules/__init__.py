"""One file per rule, found by looking into this folder."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from segue.errors import InternalError

if TYPE_CHECKING:
    from segue.lint.rule import Rule


@cache
def rules() -> dict[str, Rule]:
    """Return every rule by its name."""
    found = {}
    for name in sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")):
        rule = getattr(importlib.import_module(f"{__name__}.{name}"), "RULE", None)
        if rule is None or rule.name.replace("-", "_") != name:
            raise InternalError(f'"{__name__}.{name}" does not export a RULE of its name')
        found[rule.name] = rule
    return found
