"""See it work: migrate a real database under live traffic, and prove that nothing was lost."""

from __future__ import annotations

from typing import Annotated

import typer

from segue.cli import output
from segue.cli.commands import noun
from segue.cli.output import Form, Format, Json

app = noun(__doc__, example="segue demo")


@app.command()
def demo(
    scale: Annotated[float, typer.Option("--scale", min=0.001, max=10, help="Size of the database; 1 is about 1 GB.")] = 0.05,
    rate: Annotated[float, typer.Option("--rate", min=1, max=2000, help="The application's transactions a second.")] = 150,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the demo's folder behind.")] = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> int:
    """See it work: migrate a real database under live traffic, and prove that nothing was lost.

    Starts servers of its own in a temporary folder, and leaves nothing behind. Ends with 0 only if all is well.

    Examples:
        segue demo
        segue demo --json
    """
    from segue.demo.show import demo as show

    return show(scale=scale, json_output=output.as_json(), rate=rate, keep=keep)
