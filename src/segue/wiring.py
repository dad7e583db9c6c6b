"""Finds databases and step kinds by looking at their folders; the only module that knows every concrete one."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType
from typing import Any

import segue.databases
import segue.steps
from segue.errors import InternalError
from segue.ports import Parts


def _discover(package: ModuleType, export: str) -> list[Any]:
    found = []
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        name = f"{package.__name__}.{module.name}"
        value = getattr(importlib.import_module(name), export, None)
        if value is None:
            raise InternalError(f'"{name}" does not export {export}')
        found.append(value)
    return found


@cache
def parts() -> Parts:
    """Return every database and step kind there is."""
    return Parts(
        databases={database.name: database for database in _discover(segue.databases, "DATABASE")},
        steps={step.kind: step for step in _discover(segue.steps, "STEP")},
    )
