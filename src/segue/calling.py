"""Calls a plan's Python function in a process of its own: python -m segue.calling, started by the step that wants it.

What to call stands in the variable SEGUE_CALL; how it went is left in the file that is named there.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segue.errors import SegueError, StepFailed
from segue.ports import EffectKey, Patience


def main() -> int:
    """Load the function, join the target, call it, and say how it went."""
    wanted: dict[str, Any] = json.loads(os.environ.pop("SEGUE_CALL"))
    file, name = Path(wanted["file"]), str(wanted["function"])
    answer: dict[str, Any] = {"ok": False}
    try:
        function = _loaded(file, name)
        answer["waits"] = _call(wanted, function)
        answer["ok"] = True
    except SegueError as error:
        _show(error.__cause__ or error, file)
        answer["error"] = error.as_json()
    except BaseException as error:  # what a user's function raises ends here, sys.exit() included
        _show(error, file)
        hint = "correct it, give the changed plan a new version, and run again"
        answer["error"] = StepFailed(f"{name}: {_words(error)}", hint=hint).as_json()
    Path(wanted["report"]).write_text(json.dumps(answer), encoding="utf-8")
    return 0 if answer["ok"] else 1


def _loaded(file: Path, name: str) -> Callable[[Any], object]:
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
        raise StepFailed(f'"{name}" is an async function', hint="write it with `def`; it gets a psycopg connection")
    return function  # type: ignore[no-any-return]


def _call(wanted: dict[str, Any], function: Callable[[Any], object]) -> tuple[int, float]:
    from segue import wiring

    key = EffectKey(**wanted["key"])
    database = wiring.parts().databases[wanted["database"]]
    target = database.join_target(
        os.environ["DATABASE_URL"],
        execution=key.execution,
        holder=wanted["holder"],
        fence=wanted["fence"],
        schema=wanted["schema"],
    )
    try:
        target.programs().call(
            key,
            wanted["text"],
            Patience(wanted["locks"], wanted["work"]),
            lambda words: print(words, file=sys.stderr),
            function,
            transaction=wanted["transaction"],
        )
    finally:
        target.close()
    return target.waits.slices, target.waits.seconds


def _show(error: BaseException, file: Path) -> None:
    """Print where it went wrong, from the user's own code on."""
    trace = error.__traceback__
    own = trace
    while own is not None and not own.tb_frame.f_code.co_filename.startswith(str(file.parent)):
        own = own.tb_next
    if own is None and isinstance(error, SegueError):
        return  # the message says it all
    traceback.print_exception(type(error), error, own or trace)


def _words(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that the function left behind are not waited for: what they do is no part of it.
    os._exit(code)
