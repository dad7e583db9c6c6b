"""Reach the store, Segue's own database; start or stop it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli import output
from segue.cli._options import Format, Json
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import UsageError

if TYPE_CHECKING:
    from segue.embedded import Cluster
    from segue.settings import Settings

app = noun(__doc__, example='psql "$(segue store url)"')


@app.command()
def url(format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Print the URL of the store, as psql takes it, with its password.

    The embedded server is started if need be, and keeps running until `segue store stop`.

    Example:
        psql "$(segue store url)" -c 'SELECT name, type FROM segue_store.environments'
    """
    from segue import settings as loader

    settings = loader.load()
    location = _opened_url(settings)
    if output.as_json():
        from segue.model.urls import public

        # JSON ends up in logs: the password is in the text form only.
        output.document({"url": public(location)})
        return
    output.data(location)
    if settings.store is None:
        output.say("the store's server keeps running until `segue store stop`")


@app.command()
def start(format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Start the embedded server, and let it run until `segue store stop`.

    Commands start it by themselves, and the last one stops it; a server that runs already makes each of them faster.

    Example:
        segue store start
    """
    from segue import settings as loader

    settings = loader.load()
    _embedded(settings, "started")
    _opened_url(settings)
    _answer("started", "the store's server runs until `segue store stop`")


@app.command()
def stop(format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Stop the embedded server, also under commands that use it: they fail, and can be run again.

    Example:
        segue store stop
    """
    from segue import settings as loader

    cluster = _embedded(loader.load(), "stopped")
    running = cluster.running()
    cluster.stop()
    _answer("stopped" if running else "not running", "stopped" if running else "it was not running")


@app.command()
def status(format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Say where the store is, and whether its server runs now; nothing is started.

    Example:
        segue store status --json
    """
    from segue import settings as loader
    from segue.model.urls import public

    settings = loader.load()
    if settings.store is not None:
        content: dict[str, Any] = {"embedded": False, "url": public(settings.store), "running": None, "folder": None}
    else:
        cluster = _embedded(settings, "looked at")
        folder = settings.home / "store"
        content = {"embedded": True, "url": None, "running": cluster.running(), "folder": folder}
    if output.as_json():
        output.document({"store": content})
        return
    state = {True: "runs", False: "does not run now; commands start it when they need it", None: None}
    output.fields(
        [
            ("store", "embedded PostgreSQL" if content["embedded"] else content["url"]),
            ("folder", content["folder"]),
            ("server", state[content["running"]]),
        ]
    )


@app.command()
def limit(
    executions: Annotated[
        str | None, typer.Option("--executions", metavar="N", help="Most executions at a time, or none.")
    ] = None,
    slots: Annotated[
        str | None, typer.Option("--slots", metavar="N", help="Most copy slots at a time, or none.")
    ] = None,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Limit what all workers of the store do at a time, or show the limits.

    What runs already is left to end. With 0 nothing new begins. `segue env add --max-slots` limits one database.

    Examples:
        segue store limit --executions 3 --slots 12
        segue store limit --slots none
    """
    from segue import settings as loader
    from segue.model.vocabulary import WorkQueue
    from segue.services import limits
    from segue.store import open_store

    given = {WorkQueue.EXECUTIONS: executions, WorkQueue.SLOTS: slots}
    wanted = {queue: _most(queue, words) for queue, words in given.items() if words is not None}
    settings = loader.load()
    with open_store(settings) as store, store.session() as session:
        if wanted:
            limits.change(session, settings, wanted)
            session.flush()
        found = limits.listed(session)
    if output.as_json():
        output.document({"limits": {queue.value: most for queue, most in found.items()}})
        return
    output.fields([(queue.value, "no limit" if most is None else f"at most {most}") for queue, most in found.items()])


def _most(queue: str, words: str) -> int | None:
    if words == "none":
        return None
    if not words.isascii() or not words.isdigit():
        raise UsageError(f'"{words}" is no limit of {queue}', hint="write a number, or none")
    return int(words)


def _embedded(settings: Settings, verb: str) -> Cluster:
    from segue.embedded import Cluster

    if settings.store is not None:
        raise UsageError(
            f"the store is a server of yours (SEGUE_STORE), which is not {verb} by Segue",
            hint="unset SEGUE_STORE to use the embedded one",
        )
    return Cluster(settings.home / "store")


def _opened_url(settings: Settings) -> str:
    """Return the store's URL, its schema up to date, its server held."""
    from segue.store import open_store

    with open_store(settings) as store:
        if settings.store is None:
            _embedded(settings, "started").start()
        return store.url


def _answer(word: str, words: str) -> None:
    if output.as_json():
        output.document({"ok": True, "server": word})
    else:
        output.say(words)
