"""Keep the environments: the databases that plans run on."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from segue.cli import output
from segue.cli._options import Format, Json, Yes
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import ExitCode
from segue.model.vocabulary import DataSize, EnvironmentType, Level, Mode

app = noun(__doc__, example="segue env list")

Name = Annotated[str, typer.Argument(help="The environment's name.", show_default=False)]


@app.command()
def add(
    name: Name,
    kind: Annotated[EnvironmentType, typer.Option("--type", help="What the environment is for.", show_default=False)],
    url: Annotated[
        str | None, typer.Option("--url", help="Database URL without a password, or service=NAME.", show_default=False)
    ] = None,
    url_stdin: Annotated[bool, typer.Option("--url-stdin", help="Read the URL from the standard input.")] = False,
    url_env: Annotated[
        str | None,
        typer.Option("--url-env", metavar="VARIABLE", help="Take the URL from this variable.", show_default=False),
    ] = None,
    schema: Annotated[str, typer.Option("--schema", help="The schema that plans change.")] = "public",
    description: Annotated[str | None, typer.Option("--description", help="For people.", show_default=False)] = None,
    deployment_type: Annotated[Mode, typer.Option("--deployment-type", help="Who starts executions.")] = Mode.MANUAL,
    maintenance_window: Annotated[
        str | None,
        typer.Option("--maintenance-window", help='When work may be done: "Sunday 2-4 AM UTC".', show_default=False),
    ] = None,
    promotion_order: Annotated[
        int | None,
        typer.Option(
            "--promotion-order", metavar="N", min=0, max=1_000_000, help="Place in a promotion, lowest first."
        ),
    ] = None,
    data_size: Annotated[
        DataSize | None, typer.Option("--data-size", help="Instead of the measured size.", show_default=False)
    ] = None,
    traffic_level: Annotated[
        Level | None, typer.Option("--traffic-level", help="Instead of the measured traffic.", show_default=False)
    ] = None,
    max_slots: Annotated[
        int | None,
        typer.Option("--max-slots", metavar="N", min=0, max=1_000_000, help="Most copy slots of workers at a time."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Add it only if the database can be reached.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Store a name that exists anew.")] = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Add an environment, and measure its database.

    The URL is stored encrypted. Without --url, --url-stdin or --url-env, the PG* variables say where the database is.
    A URL with a password is not taken from the arguments, where other users of the machine could read it.

    Examples:
        segue env add staging --type staging --url postgresql://migrator@db.staging/shop
        segue env add production --type production --url-env DATABASE_URL --promotion-order 2
        pass show shop/db | segue env add production --type production --url-stdin
    """
    from segue import settings as loader
    from segue import wiring
    from segue.services import environments
    from segue.store import open_store

    location = environments.given_url(
        url=url, stdin=_read_stdin if url_stdin else None, variable=url_env, environ=os.environ
    )
    wanted = environments.Wanted(
        name=name,
        type=kind,
        schema=schema,
        description=description,
        deployment_type=deployment_type,
        maintenance_window=maintenance_window,
        promotion_order=promotion_order,
        data_size=data_size,
        traffic_level=traffic_level,
        max_slots=max_slots,
    )
    settings = loader.load()

    def look(url: str) -> Any:
        return wiring.parts().database(url).probe(url)

    with open_store(settings) as store, store.session() as session:
        added = environments.add(session, settings, wanted, location, look, check=check, replace=replace)
        content = environments.describe(added.row)
    for words in added.warnings:
        output.warn(words)
    if output.as_json():
        output.document({"ok": True, "environment": content, "warnings": added.warnings})
        return
    output.say(f'environment "{name}" added: {content["database"]}{_measured(content)}')


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Also those that were removed.")] = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """List the environments, in promotion order.

    Example:
        segue env list --json
    """
    from segue import settings as loader
    from segue.services import environments
    from segue.store import open_store

    with open_store(loader.load()) as store, store.session() as session:
        rows = [environments.describe(row) for row in environments.listed(session, inactive=everything)]
    if output.as_json():
        output.document({"environments": rows})
        return
    if not rows:
        output.say("there are no environments yet; add one with `segue env add`")
    columns = ["name", "type", "database", "schema", "data", "traffic", "last migration"]
    if everything:
        columns.append("active")
    keys = {"data": "data_size", "traffic": "traffic_level", "last migration": "last_migration"}
    output.table(columns, [[row[keys.get(column, column)] for column in columns] for row in rows])


@app.command()
def show(name: Name, format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Show one environment, without its user and password.

    Example:
        segue env show production
    """
    from segue import settings as loader
    from segue.model.quantities import size
    from segue.services import environments
    from segue.store import open_store

    with open_store(loader.load()) as store, store.session() as session:
        content = environments.describe(environments.get(session, name))
    if output.as_json():
        output.document({"environment": content})
        return
    measured = content["measured"] or {}
    output.fields(
        [
            ("name", content["name"]),
            ("type", content["type"]),
            ("description", content["description"]),
            ("database", content["database"]),
            ("schema", content["schema"]),
            ("data size", _with(content["data_size"], size(measured["size_bytes"]) if measured else "not measured")),
            ("traffic", _with(content["traffic_level"], f"{measured['tps']:.0f} tps" if measured else "not measured")),
            ("server", f"PostgreSQL {measured['server_version']}" if measured else None),
            ("measured", f"{measured['at'][:16].replace('T', ' ')} UTC" if measured else None),
            ("deployment", content["deployment_type"]),
            ("window", content["maintenance_window"]),
            ("open until", content["open_until"]),
            ("opens next", content["opens_at"]),
            ("promotion", content["promotion_order"]),
            ("copy slots", f"at most {content['max_slots']}" if content["max_slots"] is not None else None),
            ("last migration", content["last_migration"]),
            ("schema version", content["schema_version"]),
            ("active", None if content["active"] else "no, it was removed"),
        ]
    )


@app.command()
def check(
    name: Name,
    expect: Annotated[
        list[str] | None,
        typer.Option("--expect-replica", metavar="NAME", help="A replica that is to be there.", show_default=False),
    ] = None,
    forget: Annotated[
        list[str] | None,
        typer.Option("--forget-replica", metavar="NAME", help="A replica that need not be there.", show_default=False),
    ] = None,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> int:
    """Check an environment's database for what a migration could trip over; a light and what to do for each.

    Green: nothing to do. Amber: something will be refused, slower or unseen. Red: nothing can run (exit 1). Nothing is
    changed. The replicas that are connected are recorded as expected: one that is missing later is red, and data work
    waits for it.

    Examples:
        segue env check production
        segue env check production --expect-replica replica-2 --forget-replica old-replica
    """
    from segue import settings as loader
    from segue import wiring
    from segue.cli import _check
    from segue.model.checks import Light
    from segue.services import checks
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store:
        found = checks.check(store, settings, wiring.parts(), name, expect=expect or (), forget=forget or ())
    if output.as_json():
        output.document(found.as_json())
    else:
        _check.draw(f'environment "{name}"', found.findings)
    return int(ExitCode.FINDINGS if found.light is Light.RED else ExitCode.DONE)


@app.command()
def remove(name: Name, yes: Yes = False, format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Remove an environment. Its database is left as it is.

    While executions of it are stored, it is kept as inactive, so that their record stays complete.

    Example:
        segue env remove staging --yes
    """
    from segue import settings as loader
    from segue.services import environments
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store, store.session() as session:
        environments.get(session, name)
        output.ask(f'Remove the environment "{name}"?', yes=yes, refuse="nobody is here to confirm the removal")
        kept = environments.remove(session, settings, name)
    if output.as_json():
        output.document({"ok": True, "removed": name, "kept_inactive": kept})
        return
    output.say(
        f'environment "{name}" is inactive now; it is kept because executions refer to it'
        if kept
        else f'environment "{name}" removed'
    )


@app.command()
def clean(name: Name, yes: Yes = False, format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Take Segue's own schema out of an environment's database.

    Replication slots and publications of changes that are gone go too; what may hold rows is named. Refused (exit 3)
    while an execution has not ended, a rollback window is open, or a fence is armed. The history is kept in the ledger.
    Afterwards what was run there cannot be rolled back by Segue any more.

    Example:
        segue env clean staging --yes
    """
    from segue import settings as loader
    from segue import wiring
    from segue.services import environments
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store:
        with store.session() as session:
            place = environments.get(session, name).url_hint
        output.ask(
            f'Remove the schema "segue" from {place}? Past migrations there can then not be rolled back.',
            yes=yes,
            refuse="nobody is here to confirm the cleaning",
        )
        found, kept = environments.clean(store, settings, name, wiring.parts().database)
    if output.as_json():
        document = {"removed": found.schema, "dropped": found.dropped, "left": found.left, "history_kept": kept}
        output.document({"ok": True, "environment": name, **document})
        return
    output.say(
        f'schema "segue" removed from {place}; {kept} lines of its history are in the ledger'
        if found.schema
        else f'there is no schema "segue" in {place}'
    )
    for what in found.dropped:
        output.say(f"dropped the {what}, which a change had left behind")
    for what in found.left:
        output.say(f"left as it is, for it may hold rows: {what}")


def _read_stdin() -> str:
    if sys.stdin.isatty():
        import getpass

        return getpass.getpass("Database URL (not shown): ")
    return sys.stdin.read()


def _measured(content: dict[str, Any]) -> str:
    measured = content["measured"]
    if not measured:
        return ""
    from segue.model.quantities import size

    return (
        f" (PostgreSQL {measured['server_version']}, {size(measured['size_bytes'])}: {content['data_size']}, "
        f"{measured['tps']:.0f} transactions/s: {content['traffic_level']})"
    )


def _with(word: str, words: str) -> str:
    return f"{word} ({words})"
