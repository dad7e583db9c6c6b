"""Say a failure in one shape: what happened, what to do, and the exit code; a mistake of ours leaves a crash file."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import TyperException

from segue import __version__
from segue.cli import output
from segue.clock import now
from segue.errors import Interrupted, SegueError, TargetUnreachable, UsageError
from segue.model.urls import redact, redacted

REPORT = "please report it, with that file"


def report(error: BaseException) -> int:
    """Print an error and return the exit code that belongs to it."""
    if isinstance(error, BrokenPipeError):
        output.flush()
        return output.BROKEN_PIPE
    if isinstance(error, typer.Exit):
        return error.exit_code if output.flush() else output.BROKEN_PIPE
    known = understand(error)
    if known is None:
        known = crash(error)
    show(known)
    output.flush()
    return int(known.exit_code)


def understand(error: BaseException) -> SegueError | None:
    """Return what a user can act on, or None for a mistake of ours."""
    if isinstance(error, SegueError):
        return error
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return Interrupted("interrupted")
    if isinstance(error, TyperException):
        return _usage(error)
    if _connection_lost(error):
        return TargetUnreachable(redact(_first_line(error)), hint="see `segue doctor`")
    return None


def show(error: SegueError) -> None:
    """Print an error: one JSON object on stdout, or words on stderr."""
    if output.as_json():
        content: dict[str, Any] = {**redacted(error.as_json()), "exit_code": int(error.exit_code)}
        output.document({"ok": False, "error": content})
    if output.structured():
        level = "info" if isinstance(error, Interrupted) else "error"
        about = {"details": error.details, "exit_code": int(error.exit_code)}
        output.tell("ended", error.message, level=level, code=error.code, hint=error.hint, detail=about)
    if output.as_json() or output.structured():
        return
    if isinstance(error, _CommandMissingError):
        output.say("\n".join(error.details))
        return
    label = "" if isinstance(error, Interrupted) else output.paint("error:", "red", sys.stderr) + " "
    output.say(label + redact(error.message))
    for detail in error.details:
        output.say("  " + redact(detail))
    if error.hint:
        output.say(f"{output.paint('hint:', 'bold', sys.stderr)} {error.hint}")


def crash(error: BaseException) -> SegueError:
    """Save the traceback, without passwords, and return what to tell the user."""
    from segue.errors import InternalError

    text = redact("".join(traceback.format_exception(error)))
    moment = now()
    header = f"segue {__version__}, Python {sys.version.split()[0]}, {moment.isoformat()}\n\n"
    words = f"{type(error).__name__}: {redact(_first_line(error))}"
    for folder in (_home, _temporary):
        try:
            place = folder() / "crash"
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = place / f"{moment:%Y%m%dT%H%M%S.%f}Z.txt"
            path.touch(mode=0o600)
            path.write_text(header + text, encoding="utf-8")
        except Exception:  # noqa: S112 - the next place is tried, and what went wrong is told anyway
            continue
        return InternalError(f"a mistake of Segue's own: {words}", details=[f"saved as {path}"], hint=REPORT)
    return InternalError(f"a mistake of Segue's own: {words}", details=text.splitlines(), hint="please report it")


class _CommandMissingError(UsageError):
    """No command was given; the details are the help, which is shown instead of an error."""


def _home() -> Path:
    from segue import settings

    return settings.load().home


def _temporary() -> Path:
    return Path(tempfile.gettempdir()) / f"segue-{os.getuid()}"


def _usage(error: TyperException) -> SegueError:
    context = getattr(error, "ctx", None)
    message = error.format_message().rstrip(".")
    if message.startswith("Usage:"):
        # A command that needs more words than it was given: its help is the best answer.
        return _CommandMissingError("a command is missing", details=message.splitlines())
    message = " ".join(message.replace("Value error, ", "").split())
    message = re.sub(r"'([^']*)'", r'"\1"', message[:1].lower() + message[1:])
    if context is None:
        return UsageError(message)
    usage = re.sub(r"\s+", " ", context.get_usage().removeprefix("Usage:")).strip()
    return UsageError(message, details=[f"usage: {usage}"], hint=f"see `{context.command_path} --help`")


def _connection_lost(error: BaseException) -> bool:
    """Return whether a driver's error, wherever it comes from, says that a server is not there."""
    inner = getattr(error, "orig", None) or error
    if type(inner).__name__ not in _UNREACHABLE and not any(
        kind.__name__ == "OperationalError" and kind.__module__.startswith(("psycopg", "sqlalchemy"))
        for kind in type(inner).__mro__
    ):
        return False
    state = getattr(inner, "sqlstate", None)
    return state is None or state.startswith(("08", "57P", "28", "53"))


_UNREACHABLE = {"PoolTimeout", "ConnectionTimeout"}


def _first_line(error: BaseException) -> str:
    inner = getattr(error, "orig", None) or error
    return (str(inner).strip().splitlines() or [type(inner).__name__])[0]
