"""Reads the words of a plain `segue lint`, which editors and hooks run at each save, without waiting for typer.

What is not plain (a mistake, `--help`, an option that is rarely meant) is left to typer, which says it better.
"""

from __future__ import annotations

from typing import Any

from segue.cli._linting import LEVELS, Asked
from segue.lint.formats import NAMES

#: The options that are read here, by the field that they set; a test compares them with the command's own.
FLAGS = {
    "--assume-in-transaction": "assume_in_transaction",
    "--new-tables": "new_tables",
    "--fix": "fix",
    "--diff": "diff",
}
LISTS = {"--select": "select", "--ignore": "ignore"}
VALUES = {"--format": "format_", "--fail-on": "fail_on", "--git-base": "git_base"}
CHOICES = {"--format": NAMES, "--fail-on": LEVELS}


def asked(words: list[str]) -> Asked | None:
    """Return what the words after `segue lint` ask for, None where they are not plain."""
    found: dict[str, Any] = {"paths": ()}
    rest = iter(words)
    for word in rest:
        name, joined, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            found["paths"] += (word,)
        elif word in FLAGS:
            found[FLAGS[word]] = True
        elif name in LISTS or name in VALUES:
            value = value if joined else next(rest, "")
            if not value or value.startswith("-") or value not in CHOICES.get(name, (value,)):
                return None
            if name in LISTS:
                found[LISTS[name]] = (*found.get(LISTS[name], ()), value)
            else:
                found[VALUES[name]] = value
        elif word != "--json":
            return None
    if "--json" in words:
        found["format_"] = "json"
    return Asked(**found) if found["paths"] else None
