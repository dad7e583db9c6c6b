"""Reach the store, Segue's own database; start or stop it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.cli import output
from segue.cli.commands import noun
from segue.cli.output import Form, Format, Json
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
