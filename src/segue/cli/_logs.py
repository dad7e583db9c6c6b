"""Sends what a long-running process has to say to stderr: sentences for people, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from segue import clock
from segue.cli._visible import visible
from segue.model.urls import redact, redacted

#: What a line may say beside its words, in this order.
_FIELDS = ("worker", "execution", "plan", "environment", "step", "code", "hint", "detail")


def configure(*, as_json: bool, **fields: str) -> None:
    """Print the log of Segue's own modules; `fields` are in every JSON line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(fields) if as_json else _Text())
    ours = logging.getLogger("segue")
    ours.setLevel(logging.INFO)
    ours.addHandler(handler)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        about = [str(getattr(record, name)) for name in ("plan", "environment", "step") if getattr(record, name, None)]
        level = "" if record.levelno <= logging.INFO else f"{record.levelname} "
        words = f"{_at(record):%Y-%m-%d %H:%M:%S}Z  {level}{'/'.join(about)}{': ' if about else ''}{_words(record)}"
        words += f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        # Indented: a message of several lines must not look like several messages.
        return visible(words).replace("\n", "\n    ")


class _Json(logging.Formatter):
    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        about: dict[str, Any] = dict(self._fields)
        about.update({name: found for name in _FIELDS if (found := getattr(record, name, None))})
        if record.exc_info:
            about["traceback"] = self.formatException(record.exc_info)
        action = getattr(record, "action", record.name)
        return line(action, record.getMessage(), level=record.levelname.lower(), at=_at(record), **about)


def line(action: str, message: str, *, level: str = "info", at: datetime | None = None, **about: Any) -> str:
    """Return a line of a structured log: one JSON object; what is None or empty is left out, passwords are masked."""
    content = {
        "segue": 1,
        "at": (at or clock.now()).astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level,
        "action": action,
        "message": message,
        **{name: value for name, value in about.items() if value},
    }
    masked = json.dumps(redacted(content), default=lambda value: redact(str(value)), ensure_ascii=False)
    return visible(masked)


def _at(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _words(record: logging.LogRecord) -> str:
    return redact(record.getMessage())
