"""Change tables of any size while the application goes on reading and writing them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli import _asking, _changes, _layout, output
from segue.cli._asking import Blockers, Way, Window
from segue.cli._options import Format, Json, LogFormat, Yes
from segue.cli._running import AcceptDrift, At, Detach, OutsideWindow, Wait, options_of, work_on
from segue.cli._throttle import LatencyBudget, LatencyProbe, LatencyUrl, checked_limits
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from segue.services.beginnings import Options, Outcome
    from segue.services.changes import Asked
    from segue.services.plans import Checked

app = noun(__doc__, example='segue change start orders "ALTER id TYPE bigint" --env production')

Environment = Annotated[str, typer.Option("--env", "-e", help="The environment.", show_default=False)]
Change = Annotated[
    str | None,
    typer.Argument(
        help="The change's table, its execution, or its name; by default the latest change.", show_default=False
    ),
]
Where = Annotated[
    str | None,
    typer.Option("--env", "-e", help="The environment; needed where several are meant.", show_default=False),
]


@app.command()
def start(
    table: _asking.Table,
    environment: Environment,
    alter: _asking.Alter = None,
    columns: _asking.Columns = None,
    partition_by: _asking.PartitionBy = None,
    partitions: _asking.Partitions = None,
    strategy: _asking.Strategy = Way.AUTO,
    no_keys: _asking.NoKeys = False,
    workers: _asking.Workers = None,
    postpone_cutover: _asking.PostponeCutover = False,
    window: Window = None,
    retention_days: _asking.RetentionDays = 7,
    no_reverse: _asking.NoReverse = False,
    wal_limit: _asking.WalLimit = None,
    cancel_blockers: Blockers = None,
    name: _asking.Name = None,
    dry_run: _asking.DryRun = False,
    accept_drift: AcceptDrift = False,
    detach: Detach = False,
    wait: Wait = False,
    at: At = None,
    outside_window: OutsideWindow = None,
    latency_budget: LatencyBudget = None,
    latency_probe: LatencyProbe = None,
    latency_url: LatencyUrl = None,
    log_format: LogFormat = Form.TEXT,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Change a table while the application goes on reading and writing it.

    It is a plan of one step: status, pause, resume, cancel and rollback take its execution. Safe to repeat: the same
    change goes on where it stopped. The way back stays open for --retention-days after the swap; `segue rollback` swaps
    back, and loses nothing that was written since. Outside of production, --no-reverse does without.

    Examples:
        segue change start orders "ALTER id TYPE bigint" --env production
        segue change start "ALTER TABLE orders ADD note text, DROP old_note" --env staging --dry-run
        segue change start events --partition-by "RANGE (at)" --partitions parts.sql --env production --postpone-cutover
    """
    limits = {"latency_budget": latency_budget, "latency_probe": latency_probe, "latency_url": latency_url}
    tuning = {**checked_limits(limits), **({"window": _asking.checked_window(window)} if window is not None else {})}
    wanted = _asking.asked(
        table,
        [text for text in alter or [] if text.strip()],
        columns=columns,
        partition_by=partition_by,
        partitions=partitions,
        name=name,
        strategy=strategy.value,
        keys=not no_keys,
        workers=workers,
        cutover="postponed" if postpone_cutover or window is not None else "automatic",
        reversible=not no_reverse,
        retention_days=retention_days,
        cancel_blockers=cancel_blockers or [],
        wal_limit=_asking.checked_size(wal_limit),
    )
    if dry_run:
        _print_plan(wanted, environment)
        return
    options = options_of(False, accept_drift, None, at=at, outside_window=outside_window, tuning=tuning)
    _begin(wanted, environment, replace(options, irreversible=no_reverse), detach=detach, wait=wait)


@app.command("set")
def set_(
    change: Change = None,
    environment: Where = None,
    cutover_: Annotated[
        str | None,
        typer.Option("--cutover", help="now: swap as soon as it can; postponed: only when told.", show_default=False),
    ] = None,
    window: Window = None,
    cancel_blockers: Blockers = None,
    chunk_seconds: Annotated[
        float | None,
        typer.Option(
            "--chunk-seconds",
            min=0.01,
            max=0.6,
            help="The time that a piece of the copy should take.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="The most sessions at a time.", show_default=False)
    ] = None,
    duty: Annotated[
        str | None,
        typer.Option("--duty", help="The most of the time that a session may work, e.g. 50%.", show_default=False),
    ] = None,
    latency_budget: LatencyBudget = None,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Set how a change goes on while it runs; without options, show what is set.

    A running change follows within about two seconds; a new --chunk-seconds counts from when the copy begins or goes
    on. "none" takes a window or blockers back. Every other limit: `segue throttle`.

    Examples:
        segue change set --workers 4 --latency-budget p95=20ms
        segue change set orders --cutover postponed
        segue change set --cancel-blockers reports --cancel-blockers nightly
    """
    limits = {"workers": workers, "duty": duty, "latency_budget": latency_budget}
    wanted: dict[str, Any] = checked_limits(limits)
    if cutover_ is not None:
        if cutover_ not in ("now", "postponed"):
            raise UsageError(f'"{cutover_}" is no word for the cut-over', hint="write now or postponed")
        wanted["cutover"] = cutover_
    if window is not None:
        wanted["window"] = None if window == "none" else _asking.checked_window(window)
    if cancel_blockers:
        wanted["cancel_blockers"] = None if cancel_blockers == ["none"] else cancel_blockers
    if chunk_seconds is not None:
        wanted["chunk_seconds"] = chunk_seconds

    from segue import settings as loader
    from segue.services import changes
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store:
        content = changes.set_(store, settings, change, wanted, environment)
    _say_set(content, changed=bool(wanted))


@app.command()
def cutover(change: Change = None, environment: Where = None, format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Let a change swap that was told to wait: as soon as every row fits and the locks are to be had.

    Example:
        segue change cutover
    """
    from segue import settings as loader
    from segue.services import changes
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store:
        content = changes.cut_over(store, settings, change, environment)
    _say_set(content, changed=True)


@app.command()
def conflicts(
    change: Change = None,
    environment: Where = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="List so many rows at most.")] = 100,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> int:
    """List the rows that do not fit the new definition, and statements of which one repairs each.

    The change goes on without them, and the swap waits until there are none: a row that is repaired is taken in by
    itself. It ends with 1 when there are any.

    Example:
        segue change conflicts orders
    """
    from segue import settings as loader
    from segue import wiring
    from segue.services import changes
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store:
        content, total, rows = changes.conflicts(store, settings, wiring.parts(), change, environment, limit=limit)
    if output.as_json():
        output.document({"change": content["change"], "table": content["table"], "count": total, "conflicts": rows})
        return ExitCode.FINDINGS if total else ExitCode.DONE
    if not total:
        output.say(f'every row of "{content["table"]}" in "{content["environment"]}" fits the new definition')
        return ExitCode.DONE
    _layout.table(
        ["#", "table", "key", "seen", "rule", "why"],
        [(at, one["table"], _key(one), one["seen_at"], one["rule"], one["message"]) for at, one in enumerate(rows, 1)],
        spare=["rule", "seen", "table"],
    )
    output.data()
    lost = sum("no partition of relation" in one["message"] for one in rows)
    if lost:
        output.data(
            f"For {lost if lost < total else 'all'} of these rows there is no partition: most likely one is missing."
        )
        output.data(
            f"`segue rollback {content['execution']}` takes the change back; start it again with a partition for them "
            "(PARTITION OF … DEFAULT takes every other row)."
        )
        output.data()
    output.data("One of these is enough for a row; it is taken in by itself then:")
    width = len(str(len(rows)))
    for at, one in enumerate(rows, 1):
        said = [f"{line};" for line in one["repairs"]] or ["no repair is known: change the row so that it fits"]
        for line, words in enumerate(said):
            output.data(f"{at if line == 0 else '':>{width}}  {words}")
    if total > len(rows):
        output.say(f"{total - len(rows)} more; --limit shows them")
    waits = "; the swap waits" if content["phase"] in _changes.AT_WORK else ""
    output.say(f"{total} row{'s do' if total != 1 else ' does'} not fit{waits}")
    return ExitCode.FINDINGS


@app.command("list")
def list_(
    environment: Annotated[
        str | None, typer.Option("--env", "-e", help="Only those of an environment.", show_default=False)
    ] = None,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """List the online changes, newest first.

    Example:
        segue change list --env production
    """
    from segue import settings as loader
    from segue.services import changes
    from segue.store import open_store

    with open_store(loader.load()) as store, store.session() as session:
        rows = changes.listed(session, environment=environment)
    if output.as_json():
        output.document({"changes": rows})
        return
    if not rows:
        output.say('no online change yet; `segue change start TABLE "ALTER …" --env ENV` starts one')
        return
    _layout.table(
        ["execution", "environment", "table", "type", "strategy", "phase", "%", "felt", "started", "way back until"],
        [
            (
                one["execution"],
                one["environment"],
                one["table"],
                one["type"],
                one["strategy"],
                one["phase"],
                int(one["percent"]),
                one["impact"],
                one["started_at"],
                _changes.until(one),
            )
            for one in rows
        ],
        spare=["started", "felt", "type", "strategy", "way back until", "environment"],
    )


@app.command()
def show(change: Change = None, environment: Where = None, format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Show a change: how far it is, what stands in its way, what was measured, and the tables kept beside others.

    Example:
        segue change show orders
    """
    from segue import settings as loader
    from segue import wiring
    from segue.services import changes
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store:
        with store.session() as session:
            content = changes.describe(session, changes.find(session, change, environment))
        back = changes.way_back(store, settings, wiring.parts(), content)
    if output.as_json():
        output.document({**content, "way_back": back})
    else:
        _changes.show(content, back)


@app.command()
def cleanup(
    environment: Environment,
    change: Annotated[
        str | None,
        typer.Argument(
            help="One change, by its table, its execution, or its name; by default all.", show_default=False
        ),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="End the named change's way back before its time.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be dropped.")] = False,
    yes: Yes = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """End the way back of changes whose retention is over: drop the old tables, and stop keeping them current.

    After it, `segue rollback` cannot take these changes back any more.

    Examples:
        segue change cleanup --env production
        segue change cleanup orders --env production --now --yes
    """
    if now and change is None:
        raise UsageError("--now is about one change", hint="name it; `segue change list` lists them")

    from segue import settings as loader
    from segue import wiring
    from segue.services import changes
    from segue.store import open_store

    settings = loader.load()
    with open_store(settings) as store:
        with store.session() as session:
            names = changes.ending(session, environment, change, now=now)
            contents = [changes.describe(session, changes.find(session, name)) for name in names]
        if not dry_run:
            if now:
                of = f'the change of "{contents[0]["table"]}" in "{environment}"'
                question = f"Drop what is kept for the way back of {of} now?"
                output.ask(question, yes=yes, refuse="nobody is here to confirm that the way back ends")
            done = changes.cleanup(store, settings, wiring.parts(), names, output.say)
            contents = [dict(one.change) for one in done]
            failure = next((one.error for one in done if one.error is not None), None)
        else:
            failure = None
    if failure is not None and not output.as_json():
        _show_cleaned(contents, dry_run=dry_run)
    if failure is not None:
        raise failure
    if output.as_json():
        output.document({"ok": True, "dropped": not dry_run, "changes": contents})
        return
    if not contents:
        output.say(f'in "{environment}" no change\'s way back is over')
    _show_cleaned(contents, dry_run=dry_run)


# -- parts


def _begin(asked: Asked, environment: str, options: Options, *, detach: bool, wait: bool) -> None:
    def work(store: Any, settings: Any, parts: Any, watch: Any) -> Outcome:
        from segue.services import changes

        return changes.start(store, settings, parts, asked, environment, options, watch, detach=detach)

    work_on(work, already="is completed already; nothing to do", detach=detach, wait=wait)


def _print_plan(asked: Asked, environment: str) -> None:
    from segue import settings as loader
    from segue import wiring
    from segue.services import changes
    from segue.store import open_store

    with open_store(loader.load()) as store, store.session() as session:
        checked = changes.planned(session, wiring.parts(), asked, environment)
    _show_plan(checked)


def _show_plan(checked: Checked) -> None:
    from segue.cli import _yaml
    from segue.planning import planfile

    document = planfile.document(checked.plan)
    if output.as_json():
        output.document({"plan": document, "prediction": checked.prediction.as_json()})
        return
    output.data(_yaml.plan(document))
    output.say("nothing was stored or run; `segue plan assess FILE --env ENV` looks at the table")


def _say_set(content: dict[str, Any], *, changed: bool) -> None:
    if output.as_json():
        output.document({"ok": True, **content})
        return
    of = f'the change of "{content["table"]}" in "{content["environment"]}"'
    for name, value in content["set"].items():
        output.data(f"{name.replace('_', '-')}: {', '.join(value) if isinstance(value, list) else value}")
    if not content["set"] and not changed:
        output.say(f"nothing is set for {of}; its plan holds")
    elif changed and content["driven"]:
        output.say(f"{of} follows within about two seconds")
    elif changed:
        output.say(f"nobody drives {of} now: it counts when that goes on (`segue resume {content['execution']}`)")
    else:
        output.say(f"this is set for {of}")


def _key(conflict: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in conflict["key"].items())


def _show_cleaned(contents: list[dict[str, Any]], *, dry_run: bool) -> None:
    for one in contents:
        words = "would be dropped" if dry_run else "dropped" if one["phase"] == "completed" else "still to be dropped"
        output.data(f"{one['execution']}  {one['table']}  {words}")
