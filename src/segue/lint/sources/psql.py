"""What psql understands and the server does not: commands that begin with a backslash, and the data of COPY."""

from __future__ import annotations

import re

from segue.lint.sources.markers import blank

#: Whatever may hold a backslash that is no command, the backslash that is one, and the end of a statement.
_PIECE = (
    r"--[^\n]*|/\*|[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"
    r'"(?:[^"]|"")*"|\$(?:[A-Za-z_\x80-\uffff][\w\x80-\uffff]*)?\$|\\|;'
)
_COPY = re.compile(r"\s*COPY\b.*\bFROM\s+STDIN\b", re.DOTALL | re.IGNORECASE)
_COMMENT_RIM = re.compile(r"/\*|\*/")
#: Commands that send the statement before them, as a semicolon does.
_SENDS = re.compile(r"\\(?:g|gx|gset|gexec|gdesc|crosstabview|bind|parse)\b")


def without_commands(text: str) -> str:
    """Return a text with psql's commands and the data of COPY blank; a command that sends a statement ends it."""
    if "\\" not in text:
        return text
    piece = re.compile(_PIECE, re.DOTALL)  # takes longer to compile than most texts to be read
    pieces: list[str] = []
    at = place = begin = 0  # what is written, where to look next, where the statement begins
    while match := piece.search(text, place):
        word, place = match[0], match.end()
        if word.startswith(("--", "/*")):
            if word == "/*":
                place = _end_of_comment(text, place)
            if not text[begin : match.start()].strip():
                begin = place  # a comment before a statement is no part of it
        elif word.startswith("$"):
            end = text.find(word, place)
            place = len(text) if end < 0 else end + len(word)
        elif word == "\\":
            end = _line_end(text, place)
            pieces += [text[at : match.start()], ";" if _SENDS.match(text, match.start()) else " "]
            pieces.append(blank(text, match.end(), end))
            at = place = begin = end
        elif word == ";":
            if _COPY.match(text, begin, place):
                end = _end_of_data(text, place)
                # The statement goes too: the grammar knows it, but nothing is to be said of it.
                pieces += [text[at:place], blank(text, place, end)]
                at = place = end
            begin = place
    pieces.append(text[at:])
    return "".join(pieces)


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _end_of_data(text: str, at: int) -> int:
    end = text.find("\n\\.", at)
    return len(text) if end < 0 else _line_end(text, end + 1)


def _end_of_comment(text: str, at: int) -> int:
    depth = 1
    while depth and (match := _COMMENT_RIM.search(text, at)):
        depth += 1 if match[0] == "/*" else -1
        at = match.end()
    return at if not depth else len(text)
