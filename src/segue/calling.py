"""Calls a plan's Python function in a process of its own: python -m segue.calling, started by the step that wants it.

What to call stands in the variable SEGUE_CALL; how it went is left in the file that is named there.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segue.engine import functions
from segue.errors import SegueError, StepFailed
from segue.ports import EffectKey, Patience


def main() -> int:
    """Load the function, join the target, call it, and say how it went."""
    wanted: dict[str, Any] = json.loads(os.environ.pop("SEGUE_CALL"))
    file, name = Path(wanted["file"]), str(wanted["function"])
    answer: dict[str, Any] = {"ok": False}
    try:
        function = functions.loaded(file, name, gets="a psycopg connection")
        answer["waits"] = _call(wanted, function)
        answer["ok"] = True
    except SegueError as error:
        _show(error.__cause__ or error, file)
        answer["error"] = error.as_json()
    except BaseException as error:  # what a user's function raises ends here, sys.exit() included
        _show(error, file)
        hint = "correct it, give the changed plan a new version, and run again"
        answer["error"] = StepFailed(f"{name}: {functions.words(error)}", hint=hint).as_json()
    Path(wanted["report"]).write_text(json.dumps(answer), encoding="utf-8")
    return 0 if answer["ok"] else 1


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
    """Print where it went wrong."""
    sys.stderr.writelines(functions.trace(error, file))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that the function left behind are not waited for: what they do is no part of it.
    os._exit(code)
