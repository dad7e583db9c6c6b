"""A plan's Python function, loaded from its file in the process that calls it, and where an error in it came from."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segue.errors import SegueError, StepFailed


def loaded(file: Path, name: str, *, gets: str) -> Callable[[Any], Any]:
    """Return the function of a file; `gets` says what it is called with.

    Raises StepFailed, and whatever the file raises.
    """
    # Its own folder first, as for any script: what it imports stands beside it.
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise StepFailed(f'"{file.name}" cannot be loaded as Python')
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise StepFailed(f'"{file.name}" has no function "{name}"')
    if inspect.iscoroutinefunction(function):
        raise StepFailed(f'"{name}" is an async function', hint=f"write it with `def`; it gets {gets}")
    return function  # type: ignore[no-any-return]


def trace(error: BaseException, file: Path) -> list[str]:
    """Return the lines that say where an error came from, from the user's own code on; none where that says nothing."""
    found = error.__traceback__
    own = found
    while own is not None and not own.tb_frame.f_code.co_filename.startswith(str(file.parent)):
        own = own.tb_next
    if own is None and isinstance(error, SegueError):
        return []  # the message says it all
    return traceback.format_exception(type(error), error, own or found)


def words(error: BaseException) -> str:
    """Return an error in one line."""
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
