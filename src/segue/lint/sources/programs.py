"""Asks a project for its SQL, in a process with the project's Python, and ties the SQL to the text of the program."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What reading the longest history may take, in seconds.
PATIENCE = 600


@dataclass(frozen=True, slots=True)
class Part:
    """Where SQL comes from: what is from `offset` on was made by the characters `begin` to `end` of the text."""

    offset: int
    begin: int
    end: int


def asked(program: str, question: dict[str, Any], python: str | None, folder: Path) -> dict[str, Any]:
    """Return what a program of `lint/inside` answers. Raises InvalidInput where the project cannot be loaded."""
    text = Path(__file__).parent.with_name("inside").joinpath(program).read_text()
    python = python or sys.executable
    with tempfile.TemporaryDirectory(prefix="segue-") as kept:
        answer = Path(kept, "answer.json")
        command = [python, "-c", text, str(answer), json.dumps(question)]
        try:
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
            )
        except OSError as error:
            raise InvalidInput(
                f'"{python}" cannot be started: {(error.strerror or "unknown error").lower()}'
            ) from error
        except subprocess.TimeoutExpired as error:
            raise InvalidInput(f'the project in "{folder}" did not answer within {PATIENCE} s') from error
        if done.returncode or not answer.exists():
            lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
            said = lines[-1] if lines else f"exit code {done.returncode}"
            raise InvalidInput(
                f'the project in "{folder}" cannot be loaded: {said}',
                hint=f"it was loaded with {python}; --python names the one that has what the project needs",
            )
        content: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return content


class Program:
    """The text of a migration that is a program, and the places of what it calls."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self.text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            self.text = ""
        self._lines = [0]
        for line in self.text.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._calls = _calls(self.text)

    def place(self, line: int) -> tuple[int, int]:
        """Return the characters of the call that begins on a line, or of the line."""
        if not 0 < line < len(self._lines):
            return 0, 0
        begin, column, stop, stop_column = self._calls.get(line, (line, 0, line, 0))
        if stop_column:
            return self._at(begin, column), self._at(stop, stop_column)
        words = self.text[self._lines[line - 1] : self._lines[line]]
        start = self._lines[line - 1] + len(words) - len(words.lstrip())
        return start, start + len(words.strip())

    def _at(self, line: int, byte: int) -> int:
        start, end = self._lines[line - 1], self._lines[line]
        return start + len(self.text[start:end].encode()[:byte].decode(errors="ignore"))


@cache
def _calls(text: str) -> dict[int, tuple[int, int, int, int]]:
    """Return the outermost call that begins on each line: its rim in lines and bytes."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # of a newer Python than this
        return {}
    found: dict[int, tuple[int, int, int, int]] = {}
    for node in ast.walk(tree):  # outer nodes come before inner ones
        if isinstance(node, ast.Call) and node.end_lineno is not None and node.end_col_offset is not None:
            found.setdefault(node.lineno, (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset))
    return found


def joined(pieces: Iterable[tuple[str, tuple[int, int]]]) -> tuple[str, tuple[Part, ...]]:
    """Return statements as one text, and where each comes from."""
    sql: list[str] = []
    parts = []
    offset = 0
    for words, (begin, end) in pieces:
        parts.append(Part(offset, begin, end))
        sql.append(words.rstrip() + "\n")
        offset += len(sql[-1])
    return "".join(sql), tuple(parts)


def shown(path: str) -> str:
    """Return a path as people write it: from here, if it is below."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
