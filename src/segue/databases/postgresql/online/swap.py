"""Puts the new tables in place of the old ones, or back, in one short transaction; and removes what is left after."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue import clock
from segue.databases.postgresql import history, parse
from segue.databases.postgresql.locking import NotThisTime, find_blockers, set_local, take_locks
from segue.databases.postgresql.online import alive, capture, dependents, moves, snapshots
from segue.databases.postgresql.online.blueprint import Place
from segue.databases.postgresql.online.watching import altered, captured, changed, missed, signature
from segue.engine import journal
from segue.errors import LockNotGranted, StepFailed
from segue.model.online import Rehearsed, Swapped
from segue.ports import BACKWARD, FORWARD, Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from segue.databases.postgresql.online.blueprint import Blueprint, Member
    from segue.databases.postgresql.online.drain import Drainer
    from segue.databases.postgresql.online.site import Site
    from segue.databases.postgresql.online.watching import Objects
    from segue.ports import EffectKey

#: The part of a step's history that is the swap.
SWAP = 1
_RANK = {"ACCESS SHARE": 0, "SHARE ROW EXCLUSIVE": 5, "EXCLUSIVE": 6, "ACCESS EXCLUSIVE": 7}
PROBE_SECONDS = 0.1


class Behind(LockNotGranted):
    """The locks were there, but too much had come meanwhile: it is drained first."""


def locks(blueprint: Blueprint, direction: str) -> list[tuple[str, str]]:
    """Return every table that a swap locks, with the mode: referenced tables first, each once with its strongest."""
    wanted: dict[str, str] = {}
    for member in blueprint.members:
        for table, mode in dependents.locks(member, blueprint, direction):
            _strengthen(wanted, table, mode)
    for member in blueprint.members:
        _strengthen(wanted, str(member.table), "ACCESS EXCLUSIVE")
    return list(wanted.items())


def _strengthen(wanted: dict[str, str], table: str, mode: str) -> None:
    before = wanted.get(table)
    if before is None or _RANK.get(mode, 5) > _RANK.get(before, 5):
        wanted[table] = mode


def swap(
    site: Site,
    blueprint: Blueprint,
    drainers: Mapping[int, Drainer],
    key: EffectKey,
    *,
    direction: str,
    patience: Patience,
    budget: float,
    note: Callable[[str], None],
    most: int,
    expected: str,
    known: Objects,
    triggers: str | None,
    check: Callable[[psycopg.Connection[Any], Mapping[int, Drainer]], None],
    barrier: Callable[[float], None] | None = None,
) -> Swapped:
    """Swap in `direction`; FORWARD puts the shadows in place, BACKWARD the old tables.

    `drainers` work on `site.work`, by member; `expected` is the signature that the tables must have, and `known` its
    objects, where they are known; `triggers` that of the change's own triggers, where it is known; `check` looks at the
    rows once they are up to date, and raises LockNotGranted where some do not fit; `barrier` waits until a log that
    lags behind holds all that was committed before the locks. Raises Behind when more than `most` keys have to be
    drained under the locks or the `budget` of seconds is used up, LockNotGranted when the locks are not to be had,
    StepFailed when rows differ or somebody has changed a table.
    """
    moving = move(site, blueprint, direction)
    # Right before it everything was brought up to date: who begins later sees that.
    since = snapshots.now(site.look)
    tries = 0
    done: list[Swapped] = []

    def act(connection: psycopg.Connection[Any], until: float) -> None:
        nonlocal tries
        tries += 1
        held = clock.ticks()
        set_local(connection, "lock_timeout", 0.2)
        set_local(connection, "statement_timeout", budget)
        try:
            if alive.emptied(connection, blueprint):
                raise Behind("the server has emptied unlogged tables when it started after a crash")
            if old := snapshots.older(connection, since, site.lease.application):
                raise NotThisTime(old)
            keys = _drain(connection, blueprint, drainers, direction, most, budget, barrier)
            check(connection, drainers)
            looking = clock.ticks()
            if triggers is not None and captured(connection, blueprint, direction) != triggers:
                raise missed(direction)
            if signature(connection, blueprint, direction) != expected:
                raise changed(altered(connection, blueprint, direction, known))
            looked = (clock.ticks() - looking) * 1000
            connection.execute(moving.encode())
        except psycopg.errors.QueryCanceled as error:
            raise Behind(f"the swap took longer than {budget:g} s under its locks, and was given up") from error
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            raise NotThisTime from error
        forward = direction == FORWARD
        phase = "reversible" if forward else "rolled-back"
        connection.execute(
            "update segue.change set phase = %s, swapped_at = clock_timestamp(), fence = %s, "
            "detail = detail || pg_catalog.jsonb_build_object(%s::text, %s::text) where id = %s",
            [
                phase,
                site.lease.fence,
                f"triggers after {direction}",
                captured(connection, blueprint, BACKWARD) if forward else "",
                blueprint.id,
            ],
        )
        history.write(connection, key, fence=site.lease.fence, state="done", statement=moving, detail={"keys": keys})
        journal.point("online-swap-before-commit")
        done[:] = [Swapped(0.0, tries, keys, looked)]
        started.append(held)

    started: list[float] = []
    views = dependents.views_first(blueprint)
    try:
        site.in_slices(locks(blueprint, direction), patience, note, act, first=views)
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
        # What was to be locked is not there any more.
        raise changed(altered(site.look, blueprint, direction, known)) from error
    held = (clock.ticks() - started[-1]) * 1000
    journal.point("online-swap-committed")
    return replace(done[0], milliseconds=held)


def _drain(
    connection: psycopg.Connection[Any],
    blueprint: Blueprint,
    drainers: Mapping[int, Drainer],
    direction: str,
    most: int,
    budget: float,
    barrier: Callable[[float], None] | None,
) -> int:
    """Bring everything up to date under the locks; return how many keys that were."""
    if barrier is not None:
        barrier(budget)
    keys = 0
    for member in blueprint.members:
        log = blueprint.log(member, direction)
        row = connection.execute(
            sql.SQL("select count(*) from (select from {} limit {}) as l").format(log.sql, sql.Literal(most + 1))
        ).fetchone()
        if row is not None and row[0] > most:
            raise Behind(f"more than {most} keys of {member.table} were written while the locks were waited for")
        if row is None or row[0] == 0:
            continue
        drained = drainers[member.number].drain(None, compare=True)
        keys += drained.keys
        if drained.emptied:
            raise Behind(f"{member.table} was emptied by TRUNCATE")
        if drained.refused:
            raise Behind(f"{drained.refused} rows of {member.table} do not fit the other table")
        if drained.differing:
            raise StepFailed(f"{drained.differing} rows of {member.table} differ right after they were copied")
        left = connection.execute(sql.SQL("select exists (select from {})").format(log.sql)).fetchone()
        if left is None or left[0]:
            raise StepFailed(f"the log of {member.table} is not empty after it was drained")
    return keys


def move(site: Site, blueprint: Blueprint, direction: str) -> str:
    """Return the statements of a swap, all of them, as they are sent at once."""
    forward = direction == FORWARD
    lines: list[str] = []
    for member in blueprint.members:
        leaving = member.old if forward else member.new
        lines.append(capture.drop_sql(leaving, blueprint.id, moved=not forward).as_string(site.work))
        lines += dependents.swap_out(member, blueprint, direction)
    for member in blueprint.members:
        lines += [_set_schema(place, schema) for place, schema in _leaving(member, direction)]
    for member in blueprint.members:
        lines += [_set_schema(place, schema) for place, schema in _coming(member, direction)]
    for member in blueprint.members:
        lines += dependents.swap_in(member, blueprint, direction)
    if forward:
        # Not there where no way back was asked for.
        for member in blueprint.members:
            if has_triggers(site, member.new[0].place, blueprint.id):
                lines.append(capture.enable_sql(member.new, blueprint.id, moved=True).as_string(site.work))
                following = moves.enable_sql(member.new, member.backward, blueprint.id)
                lines += [line.as_string(site.work) for line in following]
    return ";\n".join(line for line in lines if line)


def _leaving(member: Member, direction: str) -> list[tuple[Place, str]]:
    """Return the relations that leave the application's schemas, where they are, and the schema that they go to."""
    if direction == FORWARD:
        return [(relation.place, relation.goes_to) for relation in member.old]
    return [
        (Place(schema_name=relation.goes_to, name=relation.place.name), relation.place.schema_name)
        for relation in member.new
    ]


def _coming(member: Member, direction: str) -> list[tuple[Place, str]]:
    """Return the relations that come into the application's schemas, where they are, and the schema they go to."""
    if direction == FORWARD:
        return [(relation.place, relation.goes_to) for relation in member.new]
    return [
        (Place(schema_name=relation.goes_to, name=relation.place.name), relation.place.schema_name)
        for relation in member.old
    ]


def _set_schema(place: Place, schema: str) -> str:
    quoted = schema.replace('"', '""')
    return f'ALTER TABLE {place} SET SCHEMA "{quoted}"'


def rehearse(site: Site, blueprint: Blueprint, probes: int, direction: str = FORWARD) -> Rehearsed:
    """Take the swap's locks for an instant, several times, and let them go at once.

    Granted is a try in which the swap could have been: where no transaction has an older snapshot either.
    """
    wanted = locks(blueprint, direction)
    text = ";\n".join(f"LOCK TABLE {table} IN {mode} MODE" for table, mode in wanted)
    statements = parse.statements(text)
    views = dependents.views_first(blueprint)
    granted = 0
    longest = 0.0
    blockers: list[str] = []
    for number in range(probes):
        if number:
            clock.sleep(0.1)
        began = clock.ticks()
        try:
            with site.transaction():
                if views:
                    set_local(site.work, "statement_timeout", PROBE_SECONDS)
                    site.work.execute(";\n".join(views).encode())
                take_locks(site.work, statements, PROBE_SECONDS)
        except (NotThisTime, psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected):
            blockers += [blocker.line() for blocker in find_blockers(site.look, statements)]
        else:
            old = snapshots.older(site.look, snapshots.now(site.look), site.lease.application)
            blockers += [one.line() for one in old]
            granted += not old
        longest = max(longest, (clock.ticks() - began) * 1000)
    return Rehearsed(probes, granted, longest, tuple(dict.fromkeys(blockers)))


def cancel(site: Site, applications: Sequence[str], note: Callable[[str], None]) -> None:
    """Cancel what was seen in the way of the last try, where its application is among those that may be."""
    for blocker in site.waits.blockers:
        row = site.look.execute(
            "select application_name, state from pg_catalog.pg_stat_activity where pid = %s", [blocker.pid]
        ).fetchone()
        if row is None or row[0] not in applications:
            continue
        # One that is idle in its transaction has nothing to cancel, and holds its locks until it ends.
        act = "pg_terminate_backend" if str(row[1]).startswith("idle in transaction") else "pg_cancel_backend"
        try:
            site.look.execute(sql.SQL("select pg_catalog.{}(%s)").format(sql.Identifier(act)), [blocker.pid])
            note(f"{'ended' if 'terminate' in act else 'cancelled'}: {blocker.line()}")
        except psycopg.errors.InsufficientPrivilege:
            note(f"may not be cancelled by this role: {blocker.line()}")


def remove(site: Site, blueprint: Blueprint, patience: Patience, note: Callable[[str], None]) -> None:
    """Remove what a change made that is over: the old tables of one that took place, else the shadows."""
    capture.remove(site, blueprint.id, (blueprint.new_schema, blueprint.old_schema), patience, note)
    for schema in (blueprint.new_schema, blueprint.old_schema):
        _drop_schema(site, schema)
    with site.transaction() as connection:
        for member in blueprint.members:
            for way in (FORWARD, BACKWARD):
                connection.execute(capture.drop_log_sql(blueprint.log(member, way)))
        connection.execute(f"drop table if exists {alive.place(blueprint)}".encode())
    journal.point("online-removed")


def has_triggers(site: Site, place: Place, change_id: str) -> bool:
    """Return whether the change has triggers on a table."""
    row = site.look.execute(
        "select exists (select from pg_catalog.pg_trigger where tgrelid = pg_catalog.to_regclass(%s) "
        "and not tgisinternal and tgparentid = 0 and pg_catalog.starts_with(tgname, %s))",
        [str(place), f"segue_{change_id}_"],
    ).fetchone()
    return bool(row and row[0])


_CONTENT = """
select c.relkind::text, c.oid::regclass::text
from pg_catalog.pg_class as c
where c.relnamespace = pg_catalog.to_regnamespace(%s)::oid and c.relkind in ('r', 'p', 'm', 'v')
    and not c.relispartition
order by c.relkind = 'p', c.oid desc
"""


def drop_views(connection: psycopg.Connection[Any], schema: str) -> None:
    """Drop the materialised views of one of the change's own schemas: they were not finished."""
    quoted = schema.replace('"', '""')
    for kind, name in connection.execute(_CONTENT.encode(), [f'"{quoted}"']).fetchall():
        if kind == "m":
            connection.execute(f"drop materialized view {name}".encode())


def _drop_schema(site: Site, schema: str) -> None:
    """Drop one of the change's own schemas with its tables, and nothing that anybody else made to hang on them."""
    quoted = schema.replace('"', '""')
    found = site.look.execute(_CONTENT.encode(), [f'"{quoted}"']).fetchall()
    kinds = {"r": "TABLE", "p": "TABLE", "m": "MATERIALIZED VIEW", "v": "VIEW"}
    tables = [name for kind, name in found if kinds[kind] == "TABLE"]
    try:
        with site.transaction() as connection:
            for kind, name in found:
                if kind in ("m", "v"):
                    connection.execute(f"drop {kinds[kind]} {name}".encode())
            if tables:
                # Together: they may refer to each other.
                connection.execute(f"drop table {', '.join(tables)}".encode())
            connection.execute(f'drop schema if exists "{quoted}"'.encode())
    except psycopg.errors.DependentObjectsStillExist as error:
        raise StepFailed(
            f"something hangs on the tables in schema {schema}, which were to be dropped",
            details=[line for line in (error.diag.message_detail or "").splitlines() if line],
            hint="drop or move what is named, and run again",
        ) from error
    journal.point("online-schema-removed")
