"""What the commands on jobs share: how a job is named, and words with a name before them."""

from __future__ import annotations

from typing import Annotated

import typer

from segue.errors import UsageError

Name = Annotated[str, typer.Argument(help="The job's name.", show_default=False)]
Job = Annotated[
    str | None,
    typer.Argument(help="The job, its execution, or the beginning of that; by default the latest.", show_default=False),
]
Where = Annotated[
    str | None,
    typer.Option("--env", "-e", help="The environment; needed where it ran in several.", show_default=False),
]


def pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """Return texts such as NAME=VALUE by name; raises UsageError."""
    found = {}
    for text in texts or []:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise UsageError(f'"{text}" is not NAME=VALUE', hint=f'write for example {option} "total=price * 2"')
        found[name.strip()] = value
    return found
