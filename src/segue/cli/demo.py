"""See it work: a real database is migrated under live traffic."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from segue.cli import output
from segue.cli._options import Format, Json
from segue.cli.commands import noun
from segue.cli.output import Form


class Scenario(StrEnum):
    """What is shown."""

    PLAN = "plan"
    ONLINE = "online"
    SPLIT = "split"


app = noun(__doc__, example="segue demo")


@app.command()
def demo(
    scale: Annotated[
        float, typer.Option("--scale", metavar="N", min=0.001, max=1000, help="How much data; 1 is 1 GB.")
    ] = 0.05,
    rate: Annotated[
        float,
        typer.Option("--rate", metavar="N", min=1, max=100_000, help="Transactions per second of the application."),
    ] = 150.0,
    scenario: Annotated[
        Scenario,
        typer.Option(
            "--scenario",
            help="`plan`: many steps of all kinds. `online`: the type of a key of many tables. `split`: one database "
            "into four services.",
        ),
    ] = Scenario.PLAN,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the databases and logs to look at.")] = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> int:
    """See it work: a real database is migrated under live traffic.

    Starts PostgreSQL servers of its own, fills a shop of more than fifty tables, lets an application work on it, and
    runs a plan that changes it. Kills that run in the middle and goes on; takes everything back and compares; applies
    it again. At the end every write that the application got an answer for is compared with the database. Exits
    with 1 if one was lost or is wrong. Nothing outside its own temporary folder is touched.

    Examples:
        segue demo
        segue demo --scale 1 --json
        segue demo --scenario online
        segue demo --scenario split
    """
    from segue.demo import online, show, splitting

    scene = {Scenario.ONLINE: online.OnlineShow, Scenario.SPLIT: splitting.SplitShow}.get(scenario, show.Show)
    return show.demo(scale=scale, json_output=output.as_json(), rate=rate, keep=keep, scene=scene)
