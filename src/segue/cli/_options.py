"""Options that many commands take. Not in `output.py`: what only prints does not wait for typer."""

from __future__ import annotations

from typing import Annotated

import typer

from segue.cli.output import Form

#: The option that every command with data takes: `def show(format_: Format = Form.TEXT, json_: Json = False)`.
Format = Annotated[Form, typer.Option("--format", help="How to print data.", show_default=True)]
Json = Annotated[bool, typer.Option("--json", help="Short for --format json.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
#: How the log of a run looks: `def run(log_format: LogFormat = Form.TEXT)`.
LogFormat = Annotated[Form, typer.Option("--log-format", help="How the log on stderr looks.")]
