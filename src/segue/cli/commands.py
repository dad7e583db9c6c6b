"""Find the commands in this folder, list them without importing them, and load only the one that is used.

To add a command, add `cli/<noun>.py`; its docstring's first line is the help that `segue --help` shows:

    app = noun(__doc__, example="segue env list")          # `segue <noun> <verb>`

    @app.command("list")
    def list_(format_: Format = Form.TEXT, json_: Json = False) -> None: ...

With a single function and no group, `app` is that one command (`segue doctor`). A module that brings several commands
(`run`, `status`, `logs` in one file) names them, with their one-line helps, in a literal at its top; `app` then holds
a command of each name:

    COMMANDS = {
        "status": "Show how far an execution is.",
        "logs": "Show what an execution said.",
    }

A command prints through `output.py`, raises errors of `segue.errors`, and may return its exit code. Its docstring
ends with an indented example, which is shown as written. Files beginning with an underscore are not commands.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from segue import __version__
from segue.cli import output

#: Modules of this folder that serve the commands and are none.
PARTS = {"commands", "output", "failures"}

#: In which order `segue --help` lists what a person does; what is not named here follows, by name.
ORDER = (
    *("demo", "init", "env", "plan", "lint", "diff", "run", "approve", "status", "throttle", "logs", "pause", "resume"),
    *("cancel", "rollback", "change", "job", "move", "outbox", "verify", "rehearse", "health", "incidents", "backup"),
    *("recover", "versions", "usage", "explain", "ledger", "store", "worker", "serve", "doctor"),
)

#: Wide enough for one-line helps, narrow enough to read.
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

CODES = (
    "Exit codes: 0 done, 1 findings, 2 failed, 3 blocked by approval, policy or drift, 4 stopped and safely undone, "
    "5 a person must act, 64 usage, 69 database unreachable, 70 internal error, 75 busy, 78 configuration, "
    "130 interrupted."
)

_LITERAL = re.compile(r"^COMMANDS\b[^=\n]*= (\{.*?^\})", re.DOTALL | re.MULTILINE)


def noun(words: str | None, *, example: str) -> typer.Typer:
    """Return the Typer that a command's module exports as `app`: its docstring, an example, what all nouns share."""
    return typer.Typer(
        help=f"{(words or '').strip().splitlines()[0]}\n\nExample:\n    {example}",
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=CONTEXT,
    )


def found(folder: Path | None = None) -> dict[str, tuple[str, str]]:
    """Return each command's name with its module and its one-line help, read from the text, nothing imported."""
    commands = {}
    for path in sorted((folder or Path(__file__).parent).glob("[!_]*.py")):
        if path.stem in PARTS:
            continue
        text = path.read_text(encoding="utf-8")
        several = _LITERAL.search(text)
        helps = ast.literal_eval(several[1]) if several else {path.stem.replace("_", "-"): _first_line(text)}
        commands.update({name: (path.stem, words) for name, words in helps.items()})
    rank = {name: place for place, name in enumerate(ORDER)}
    return dict(sorted(commands.items(), key=lambda item: (rank.get(item[0], len(ORDER)), item[0])))


class Commands(TyperGroup):
    """The root: lists commands by what their files say, and imports a file when its command is used."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._modules: dict[str, str] = {}
        for name, (module, words) in found().items():
            self._modules[name] = module
            # A placeholder that knows its name and help; resolve_command puts the real one in its place.
            self.commands[name] = TyperCommand(name, short_help=words, rich_markup_mode=None)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command by its name, with suggestions for a misspelt one, and load it."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in self._modules:
            command = load(name, self._modules[name])
        return name, command, rest


def load(name: str, module: str) -> Any:
    """Import a command's module and return the command, its examples kept as they are written."""
    app = importlib.import_module(f"segue.cli.{module}").app
    several = len(app.registered_commands) > 1 or app.registered_groups or app.registered_callback
    command: Any = typer.main.get_command(app)
    if (several and name != module.replace("_", "-")) or (several and name in command.commands):
        command = command.commands[name]
    command.name = name
    _polish(command)
    return command


def root(arguments: list[str]) -> int:
    """Parse the arguments, run the command and return its exit code; errors go up to the caller."""
    app = typer.Typer(
        cls=Commands,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=CONTEXT,
    )
    app.callback(epilog=CODES)(_root)
    command: Any = typer.main.get_command(app)
    command.help = _verbatim(command.help)
    if "_SEGUE_COMPLETE" in os.environ:
        command.main(arguments, prog_name="segue", standalone_mode=False)
    with command.make_context("segue", list(arguments)) as context:
        result = command.invoke(context)
    return result if isinstance(result, int) else 0


def _version(wanted: bool) -> None:
    if wanted:
        output.data(f"segue {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and stop.")
    ] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="Print plain text (also: NO_COLOR=1).")] = False,
) -> None:
    """Change databases while the application keeps working: plan, rehearse, run, verify, undo.

    Examples:
        segue demo      see it work: a real database under live traffic
        segue doctor    see what is set up, what is missing, what to type next
    """


def _first_line(text: str) -> str:
    docstring = re.match(r'\s*r?"""(.*?)(?:"""|\n)', text)
    return docstring[1].strip() if docstring else ""


def _polish(command: Any) -> None:
    """Keep indented paragraphs of the help as written: the help formatter would join an example's lines."""
    # Given as such it is wrapped in lists; a short help that is made from the long one would be cut.
    command.short_help = " ".join((command.help or "").split("\n\n")[0].split())
    command.help = _verbatim(command.help)
    for child in getattr(command, "commands", {}).values():
        _polish(child)


def _verbatim(words: str | None) -> str:
    """Mark the paragraphs with indented lines as not to be joined."""
    return "\n\n".join(
        "\b\n" + part if re.search(r"^\s+\S", part, re.MULTILINE) and not part.startswith("\b") else part
        for part in (words or "").split("\n\n")
    )
