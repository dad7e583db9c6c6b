"""What a program prints: whole lines, without secrets, some of them said and the last of them kept."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from segue.engine.scripts import KEPT_LINES, LONGEST_LINE, SAID_AT_ALL, SAID_AT_ONCE, Output


class Said:
    """An output, and what it says."""

    def __init__(self, *secrets: str) -> None:
        self.lines: list[str] = []
        self.output = Output(secrets, lambda stream, line: self.lines.append(f"{stream}: {line}" if stream else line))

    def take(self, *pieces: bytes, stream: str = "stdout") -> list[str]:
        for piece in pieces:
            self.output.take(stream, piece)
        self.output.flush()
        return self.lines


def test_lines_are_whole_however_they_come() -> None:
    said = Said()
    assert said.take(b"on", b"e\ntw") == ["stdout: one"]
    said.take(b"other\n", stream="stderr")
    assert said.take(b"o\n", b"three", b"") == ["stdout: one", "stderr: other", "stdout: two", "stdout: three"]
    assert list(said.output.last) == ["one", "other", "two", "three"]
    assert said.output.lines == 4


def test_secrets_are_masked_also_where_a_piece_ends_within_them() -> None:
    said = Said("s3cret", "s3cret-and-more")
    found = said.take(b"it is s3c", b"ret, or s3cret-and-more\n", b"postgresql://ada:other@host/db\n")
    assert found == ["stdout: it is ***, or ***", "stdout: postgresql://ada:***@host/db"]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"\x1b[31mred\x1b[0m \x1b]0;title\x07end", "red end"),
        (b"10 %\r50 %\r100 %", "100 %"),
        (b"windows\r", "windows"),
        (b"nul \x00 and bell \x07", "nul  and bell "),
        ("schön \u2713".encode(), "schön ✓"),
        (b"not \xff utf-8", "not \ufffd utf-8"),
        (b"tab\there", "tab\there"),
    ],
)
def test_what_would_disturb_a_terminal_or_the_store_is_left_out(raw: bytes, shown: str) -> None:
    assert Said().take(raw + b"\n") == [f"stdout: {shown}"]


def test_line_without_an_end_is_cut_and_holds_no_memory() -> None:
    said = Said("word")
    said.take(*[b"x" * 30_000] * 100)
    assert said.output.lines == 1
    said.take(b"word\nnext\n")
    assert [line[-4:] for line in said.output.last] == ["xxx…", "next"]
    assert len(said.output.last[0]) == LONGEST_LINE


def test_flood_is_said_in_part_and_its_end_is_kept() -> None:
    said = Said()
    said.take(b"".join(b"%d\n" % number for number in range(5000)))
    assert said.lines == [f"… {5000 - SAID_AT_ONCE} lines more", *(f"stdout: {n}" for n in range(4990, 5000))]
    assert list(said.output.last) == [str(n) for n in range(5000 - KEPT_LINES, 5000)]
    for _ in range(SAID_AT_ALL):
        said.take(b"again\n" * SAID_AT_ONCE)
    assert len([line for line in said.lines if line.startswith("stdout")]) == SAID_AT_ALL
    assert "is not kept" in said.lines[-1]


@pytest.mark.parametrize("show", [repr, json.dumps, lambda word: repr(word.encode()), lambda word: repr({"a": [word]})])
def test_secret_is_masked_as_languages_quote_it(show: Callable[[str], str]) -> None:
    secret = "S'é\\w0rd"
    (line,) = Said(secret).take(show(secret).encode() + b"\n")
    assert "w0rd" not in line
