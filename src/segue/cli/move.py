"""Move tables to another database while the application goes on, switch to it, and take it back."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli import _reading, output
from segue.cli._options import Format, Json, Yes
from segue.cli._stopping import stopped
from segue.cli._verdicts import draw
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import ExitCode, UsageError
from segue.model.quantities import duration, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.model.moves import MoveSwitched
    from segue.model.splits import CrossingKey
    from segue.services.moves import Driver
    from segue.services.splits import Splitter

app = noun(__doc__, example="segue move switch orders")

Name = Annotated[str, typer.Argument(help="The move's name.", show_default=False)]
Budget = Annotated[
    str, typer.Option("--budget", help="The longest that writes may stop; beyond it, everything is undone.")
]
Margin = Annotated[
    int,
    typer.Option("--margin", min=1, help="Values of each sequence left to the side that closes, for late sessions."),
]
Undo = Annotated[
    bool,
    typer.Option("--undo", help="Undo a switch that was cut off half-way, and do nothing else."),
]
SplitFile = Annotated[str, typer.Argument(metavar="FILE", help="A split file; - reads it from a pipe.")]
LockTimeout = Annotated[str, typer.Option("--lock-timeout", help="How long to try for the tables' locks.")]


@app.command()
def create(
    name: Name,
    source: Annotated[str, typer.Option("--from", help="The environment that has the tables.", show_default=False)],
    target: Annotated[str, typer.Option("--to", help="The environment they move to.", show_default=False)],
    table: Annotated[
        list[str] | None, typer.Option("--table", "-t", help="A table; repeatable.", show_default=False)
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Make the tables on the target, as they are; indexes after the copy.")
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Only copy, at one moment: nothing is followed, and nothing stays behind.")
    ] = False,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Keep the target as a copy that only reads, for good; see `rehome`.")
    ] = False,
    shape: Annotated[
        str | None, typer.Option("--shape", help="A file that says what the tables become.", show_default=False)
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", help="Move some of the rows: a condition on row s of each table.", show_default=False),
    ] = None,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Name a move of tables between two environments. Nothing happens in the databases yet.

    With --schema the tables are made on the target, with what they need: types, sequences, functions. Without it they
    have to be there, empty, with their keys. With --shape they differ from those of the source: the file names them.
    With --where only some rows of each move, such as a tenant's, and are followed as a shape is: `segue move follow`.
    With --read-only the source stays their home: the target follows it for good, and refuses writes.

    Examples:
        segue move create orders --from production --to orders-db -t orders -t order_items --schema
        segue move create copy --from production --to staging -t orders --schema --once
        segue move create tenant7 --from shard1 --to shard2 -t orders -t order_items --where "s.tenant_id = 7"
        segue move create countries --from production --to orders-db -t countries --schema --read-only
    """
    from segue import settings as loader
    from segue import wiring
    from segue.services import moves, reshaping
    from segue.store import open_store

    if shape is not None and table:
        raise UsageError("a shape names the tables", hint="leave out --table")
    if where is not None and shape is not None:
        raise UsageError("a shape has its own conditions", hint="give each table its `where` in the file")
    found = reshaping.read(shape) if shape is not None else None
    if where is not None:
        found = reshaping.filtered(table or (), where)
    tables = found.sources if found is not None else tuple(table or ())
    settings = loader.load()
    with open_store(settings) as store:
        move = moves.Move(name, source, target, tables, schema, once, found, read_only)
        warnings = moves.create(store, settings, move, wiring.parts().database)
    if output.as_json():
        document = {"ok": True, "move": name, "from": source, "to": target, "tables": list(tables)}
        output.document({**document, "warnings": warnings} if found is not None else document)
    else:
        for warning in warnings:
            output.say(f"note: {warning}")
        output.say(f"created; `segue move start {name}` copies{'' if once else ' and follows'}")


@app.command()
def check(name: Name, format_: Format = Form.TEXT, json_: Json = False) -> int:
    """Look for all that stands in a move's way, on both sides: keys, rights, slots, tables, foreign keys, room.

    Nothing is changed. Red: `start` is refused (exit 1). Amber: something to know beforehand.

    Example:
        segue move check orders
    """
    from segue.cli import _check
    from segue.model.checks import Light, worst

    with _driver(name, "10s") as driver:
        found = driver.check()
    light = worst(found)
    if output.as_json():
        output.document(
            {
                "ok": light is not Light.RED,
                "move": name,
                "light": light.value,
                "findings": [finding.as_json() for finding in found],
            }
        )
    else:
        _check.draw(f'move "{name}"', found)
    return ExitCode.FINDINGS if light is Light.RED else ExitCode.DONE


@app.command()
def start(
    name: Name,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Tables copied at a time.")] = 2,
    lock_timeout: LockTimeout = "60s",
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Copy the tables at one moment, follow what is written since, and arm the way back.

    The application stays where it is and waits for nothing. Safe to repeat: what was cut off during the copy begins
    the copy anew, since its snapshot is gone; what was cut off later goes on.

    Example:
        segue move start orders --workers 4
    """
    with _driver(name, lock_timeout) as driver:
        done = driver.start(workers)
    if output.as_json():
        output.document({"ok": True, "move": name, **asdict(done)})
    else:
        output.table(("table", "rows"), done.tables.items())
        end = "the copy is complete" if driver.move.once else "the target follows, and the way back is ready,"
        if driver.move.read_only:
            end = "the read-only copy follows its home"
        if driver.move.shape is not None:
            end = f"the target is level; keep `segue move follow {name}` running,"
        output.say(f"{end} after {duration(done.seconds)}")


@app.command()
def follow(
    name: Name,
    once: Annotated[bool, typer.Option("--once", help="End when nothing is left to carry over.")] = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Carry over what is written to tables that have another shape on the other side, until the move ends.

    Keep one running from `start` to `complete`; more than one take turns. It may end at any time: what was written
    waits. Tables of the same shape are followed by the servers themselves.

    Examples:
        segue move follow shop
        segue move follow shop --once
    """
    with _driver(name, "60s") as driver, stopped() as stop:
        entries = driver.follow(once=once, stop=stop)
    if output.as_json():
        output.document({"ok": True, "move": name, "entries": entries})
    else:
        output.say(f"carried over {entries} entries")


@app.command()
def status(name: Name, format_: Format = Form.TEXT, json_: Json = False) -> int:
    """Show which side is open, and how far the other one is behind.

    Exit 5 when a switch was cut off with both sides closed: `switch` or `reverse` finish it or, with --undo, undo it.

    Example:
        segue move status orders --json
    """
    with _driver(name, "10s") as driver:
        found = driver.look()
    if output.as_json():
        output.document({"ok": found.open is not None, "move": name, **asdict(found)})
    else:
        behind = "cannot tell"
        if found.caught_up is not None:
            late = "" if found.caught_up else " and more: it does not catch up now"
            behind = f"{duration(found.lag_seconds or 0.0)}{late}"
        output.fields(
            [
                ("open", found.open or "neither: a switch was cut off"),
                ("followed", "yes" if found.followed else "not yet: `segue move start`"),
                ("behind", behind),
                *([("waiting", f"{found.lag_rows:,} keys")] if found.lag_rows is not None else []),
                ("kept back", size(found.lag_bytes) if found.lag_bytes is not None else "cannot tell"),
                ("read-only", f"a copy; its home is {driver.move.source}")
                if driver.move.read_only
                else ("switches", found.switches),
                *([("problem", found.problem)] if found.problem else []),
            ]
        )
    return ExitCode.DONE if found.open is not None else ExitCode.CANNOT_TELL


@app.command()
def verify(
    name: Name,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=32, help="Ranges at a time, on each side.")] = 2,
    settle: Annotated[str, typer.Option("--settle", help="For how long rows that differ may be under way.")] = "5s",
    way_back: Annotated[
        bool, typer.Option("--way-back", help="Compare what the target's rows would become in the source.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write all that differs, as JSON.")
    ] = None,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> int:
    """Compare the moved tables of both sides, row by row, while they are in use. Exit 1 when something differs.

    Of tables of another shape, what the source's rows become is compared. With --way-back the other way round: a row
    that differs then would not come back as it is, once it was written on the target.

    Examples:
        segue move verify orders
        segue move verify shop --way-back
    """
    from segue.model.quantities import seconds
    from segue.model.verifying import VerifySpec

    if report is not None and not report.absolute().parent.is_dir():
        raise UsageError(f'the folder of --report is not there: "{report.absolute().parent}"')
    spec = VerifySpec(jobs=jobs, settle=float(seconds(settle)))
    with _driver(name, "10s") as driver:
        found = driver.verify(spec, way_back=way_back)
    ok = all(one.equal for one in found)
    content = {"ok": ok, "move": name, "tables": [{**asdict(one), "equal": one.equal} for one in found]}
    if report is not None:
        report.write_text(json.dumps({"segue": 1, **content}, indent=2, ensure_ascii=False) + "\n")
    if output.as_json():
        output.document(content)
    else:
        draw(found)
    return ExitCode.DONE if ok else ExitCode.FINDINGS


app.command()(_reading.reads)


@app.command()
def switch(
    name: Name,
    budget: Budget = "2s",
    margin: Margin = 1000,
    lock_timeout: LockTimeout = "30s",
    undo: Undo = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Close the source and open the target, losing nothing. Then route the application to the target.

    Writes to the closed side fail with SQLSTATE 40001, constraint segue_fence: retry them on the other side. When it
    takes longer than --budget, it is undone (exit 4) and the source is open as before.

    Examples:
        segue move switch orders
        segue move switch orders --budget 500ms
    """
    _turn(name, "target", budget, margin, lock_timeout, undo)


@app.command()
def reverse(
    name: Name,
    budget: Budget = "2s",
    margin: Margin = 1000,
    lock_timeout: LockTimeout = "30s",
    undo: Undo = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Close the target and open the source again, with all that was written meanwhile.

    Example:
        segue move reverse orders
    """
    _turn(name, "source", budget, margin, lock_timeout, undo)


@app.command()
def complete(
    name: Name, yes: Yes = False, lock_timeout: LockTimeout = "60s", format_: Format = Form.TEXT, json_: Json = False
) -> None:
    """End a move with the target in use: nothing is followed any more, and nothing of Segue is left.

    The source keeps its tables, without a fence. Drop them, or take the application's rights to them away.

    Example:
        segue move complete orders --yes
    """
    output.ask(f'Complete the move "{name}"? There is no way back then.', yes=yes, refuse="nobody is here to confirm")
    with _driver(name, lock_timeout) as driver:
        driver.complete()
    _ended(name, "completed")


@app.command()
def cancel(
    name: Name, yes: Yes = False, lock_timeout: LockTimeout = "60s", format_: Format = Form.TEXT, json_: Json = False
) -> None:
    """Give a move up with the source in use; the target keeps what was copied.

    Example:
        segue move cancel orders --yes
    """
    output.ask(f'Cancel the move "{name}"? Its copy is followed no more.', yes=yes, refuse="nobody is here to confirm")
    with _driver(name, lock_timeout) as driver:
        driver.cancel()
    _ended(name, "cancelled")


app.command()(_reading.rehome)


@app.command()
def survey(file: SplitFile, format_: Format = Form.TEXT, json_: Json = False) -> int:
    """Show what a split cuts: tables without a home, foreign keys that cross, and what uses several domains.

    Nothing is changed. Exit 1 while a table has no home, or one that is named is not there.

    Example:
        segue move survey split.yaml
    """
    with _splitter(file) as splitter:
        found = splitter.survey()
        split = splitter.split
    if output.as_json():
        output.document({"ok": found.ready, "split": split.name, **asdict(found)})
        return ExitCode.DONE if found.ready else ExitCode.FINDINGS
    counts = Counter(found.tables.values())
    output.table(("domain", "tables"), [(d.name, counts[d.name]) for d in split.domains])
    for title, lines in (("not there", found.problems), ("in no domain", found.homeless)):
        output.say("".join(f"\n{title}: {line}" for line in lines).lstrip("\n")) if lines else None
    output.table(
        ("foreign key", "from", "to", "writes", "afterwards"),
        [
            (k.name, f"{k.domain}: {k.table}", f"{k.to_domain}: {k.to_table}", k.writes, _kept(k))
            for k in found.crossing
        ],
    )
    output.table(
        ("read-only copy", "in", "home", "tables"),
        [(copy.name, copy.to, copy.home, ", ".join(copy.tables)) for copy in found.copies],
    )
    for one in found.spanning:
        used = "; ".join(f"{domain}: {', '.join(tables)}" for domain, tables in one.tables.items())
        often = f", {one.calls} calls" if one.calls is not None else "" if one.certain else ", by its text"
        output.say(f"{one.kind} {one.what}\n  uses {used}{often}\n  {one.advice}")
    for line in found.unseen:
        output.say(f"not seen: {line}")
    return ExitCode.DONE if found.ready else ExitCode.FINDINGS


@app.command()
def split(file: SplitFile, format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Create a live move for each domain of a split file, under the domain's name, and its read-only copies.

    Refused while a table of the source has no home. Each domain is then started, switched and reversed by itself.

    Example:
        segue move split split.yaml
    """
    with _splitter(file) as splitter:
        names = splitter.create()
    if output.as_json():
        output.document({"ok": True, "split": splitter.split.name, "moves": names})
    else:
        output.say(f"created {', '.join(names)}; `segue move start NAME` copies and follows each")


@app.command()
def plan(file: SplitFile, format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Print the plan that carries a split out: for each domain a copy, the keys that are cut, and a switch.

    Nothing is changed. Refused while a table of the source has no home. `segue run` runs it on the source, and
    `segue plan document` writes what to decide upon.

    Example:
        segue move plan split.yaml > plan.yaml && segue run plan.yaml --env monolith
    """
    from segue.cli import _yaml

    with _splitter(file) as splitter:
        document = splitter.plan()
    if output.as_json():
        output.document({"plan": document})
    else:
        output.data(_yaml.plan(document))


@app.command()
def probe(file: SplitFile, format_: Format = Form.TEXT, json_: Json = False) -> int:
    """Look whether the foreign keys that a split has cut still hold, each between the databases its tables are in now.

    What is missing is looked at again for some seconds, since both sides are written to. Exit 1 when one is broken.

    Example:
        segue move probe split.yaml --json
    """
    with _splitter(file) as splitter:
        found = splitter.probe()
    broken = [key for key, seen in found if seen is not None and not seen.holds]
    if output.as_json():
        invariants = {key.name: True if seen is None else seen.holds for key, seen in found}
        details = [{"key": asdict(key), "seen": asdict(seen) if seen else None} for key, seen in found]
        output.document({"ok": not broken, "invariants": invariants, "details": details})
    else:
        output.table(
            ("foreign key", "from", "to", "values", "without a row", "such as"),
            [
                (
                    key.name,
                    key.table,
                    key.to_table,
                    seen.values if seen else "",
                    seen.broken if seen else "kept by the server",
                    "; ".join(seen.examples) if seen else "",
                )
                for key, seen in found
            ],
        )
    return ExitCode.FINDINGS if broken else ExitCode.DONE


def _kept(key: CrossingKey) -> str:
    told = f"; {' and '.join(key.actions)} has to be told by an event" if key.actions else ""
    local = f"local in {key.domain} again, on its copy; " if key.to_shared else ""
    return f"{local}probed{told}"


@contextmanager
def _splitter(file: str) -> Iterator[Splitter]:
    from segue import settings as loader
    from segue import wiring
    from segue.services import splits
    from segue.store import open_store

    found = splits.read(file)
    settings = loader.load()
    with open_store(settings) as store:
        yield splits.Splitter(store, settings, found, wiring.parts().database)


def _ended(name: str, how: str) -> None:
    if output.as_json():
        output.document({"ok": True, "move": name, "status": how})
    else:
        output.say(f"{how}; nothing of the move is left in either database")


def _turn(name: str, to: str, budget: str, margin: int, lock_timeout: str, undo: bool) -> None:
    from segue.model.quantities import seconds

    allowed = seconds(budget)
    with _driver(name, lock_timeout) as driver:
        done = driver.turn(to, budget=allowed, margin=margin, finish=not undo)
        found = driver.look()
    if output.as_json():
        output.document({"ok": True, "move": name, "open": found.open, **_pause(done)})
    elif done is None:
        output.say(f"the {found.open} is open")
    else:
        output.say(f"the {to} is open; writes stopped for {duration(done.stopped)}. Route the application there now")


def _pause(done: MoveSwitched | None) -> dict[str, Any]:
    if done is None:
        return {"pause_ms": None, "drain_ms": None}
    return {"pause_ms": round(done.stopped * 1000, 1), "drain_ms": round(done.drain * 1000, 1)}


@contextmanager
def _driver(name: str, lock_timeout: str) -> Iterator[Driver]:
    from segue import settings as loader
    from segue import wiring
    from segue.model.quantities import seconds
    from segue.ports import Patience
    from segue.services.moves import Driver
    from segue.store import open_store

    patience = Patience(seconds(lock_timeout), seconds(lock_timeout))
    settings = loader.load()
    with open_store(settings) as store:
        yield Driver(store, settings, name, wiring.parts().database, patience, output.say)
