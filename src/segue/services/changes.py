"""Online schema changes: start one, set how it goes on, look at what stands in its way, and end its way back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.errors import Blocked, InvalidInput, NotFound, SegueError, SqlSyntaxError, UsageError
from segue.model.lifecycles import ExecutionStatus, OnlineChangePhase
from segue.model.online import ChangeSpec, plain
from segue.model.vocabulary import WorkQueue
from segue.planning import planfile
from segue.planning.planfile import InvalidPlan
from segue.ports import FORWARD, EffectKey, Patience
from segue.services import environments, executions, plans, tuning, watching

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from sqlalchemy.orm import Session

    from segue.engine.events import Watch
    from segue.model.online import Conflict
    from segue.ports import Database, Parts
    from segue.services.beginnings import Options, Outcome
    from segue.services.plans import Checked
    from segue.settings import Settings
    from segue.store import Store
    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.online import OnlineChangeRow
    from segue.store.tables.plans import PlanRow

#: The step of a plan that `segue change start` makes.
STEP = "change"
#: How long the locks are tried for with which the rest of a change is dropped.
LOCKS = 30.0
_WORK = 3600.0
_OVER = (
    OnlineChangePhase.REVERSIBLE,
    OnlineChangePhase.COMPLETED,
    OnlineChangePhase.CANCELLED,
    OnlineChangePhase.ROLLED_BACK,
)
_SWAPPED = (OnlineChangePhase.REVERSIBLE, OnlineChangePhase.COMPLETED)
#: A change in one of these is to be swapped still.
GOING = tuple(phase for phase in OnlineChangePhase if phase not in _OVER)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asks of an online change; texts are SQL of the target.

    `alter`: ALTER TABLE statements, with or without their head, in their order. `partitions`: the statements that make
    them. `fields`: other fields of the step, by the plan file's names.
    """

    table: str
    alter: Sequence[str] = ()
    columns: Sequence[str] = ()
    partition_by: str | None = None
    partitions: str | None = None
    name: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


# -- starting --------------------------------------------------------------------------------------------------------


def planned(session: Session, parts: Parts, asked: Asked, environment: str) -> Checked:
    """Return the plan of one step that does what is asked; the same again is the same plan.

    Where a plan of its name is stored with other content, it gets the next version. Raises InvalidInput.
    """
    env_row = environments.get(session, environment)
    database = next(iter(parts.databases.values()))
    tables = _tables(asked, database)
    step: dict[str, Any] = {"name": STEP, "kind": "online-change", **asked.fields}
    step.update(tables[0] if len(tables) == 1 else {"tables": tables})
    days = step.get("retention_days", 7)
    document: dict[str, Any] = {
        "plan": asked.name or _name(tables, env_row.schema_name),
        "version": "1.0.0",
        "description": _described(tables),
        "target_schema": env_row.schema_name,
        "rollback": {"window": days * 86400},
        "steps": [step],
    }
    if not days:
        del document["rollback"]
    checked = _checked(document, parts)
    stored = {row.plan_name: row for row in plans.listed(session)}
    elsewhere = _elsewhere(document["plan"], env_row.name)
    if asked.name is None and (elsewhere in stored or _goes_on_elsewhere(session, stored, checked, env_row.id)):
        # Of its own there: what goes on in another environment stays as it is.
        document["plan"] = elsewhere
        checked = _checked(document, parts)
    row = stored.get(checked.plan.plan)
    if row is None:
        return checked
    same = _checked({**document, "version": row.version}, parts)
    if same.digest == row.plan_hash and not _changed_since(session, row, env_row.id):
        return same
    return _checked({**document, "version": _next(row.version)}, parts)


def _changed_since(session: Session, plan: PlanRow, environment: str) -> bool:
    """Return whether the plan is done, and one of its tables was changed by another online change since."""
    from sqlalchemy import select

    from segue.services.beginnings import latest_of
    from segue.store.tables.online import OnlineChangeRow

    done = latest_of(session, plan.id, environment)
    if done is None or done.status != ExecutionStatus.COMPLETED:
        return False
    query = _in(select(OnlineChangeRow), environment)
    mine = session.scalars(query.where(OnlineChangeRow.execution_id == done.id)).all()
    tables = {name for row in mine for name in (row.table_name, *(shadow.original_table for shadow in row.shadows))}
    begun = max((row.started_at for row in mine if row.started_at), default=None)
    if begun is None:
        return False
    later = session.scalars(query.where(OnlineChangeRow.started_at > begun, OnlineChangeRow.phase.in_(_SWAPPED)))
    return any({row.table_name, *(shadow.original_table for shadow in row.shadows)} & tables for row in later)


def _goes_on_elsewhere(session: Session, stored: Mapping[str, PlanRow], checked: Checked, environment: str) -> bool:
    """Return whether the stored plan of this name says otherwise, and goes on in other environments alone."""
    row = stored.get(checked.plan.plan)
    if row is None or {**row.document, "version": ""} == {**planfile.document(checked.plan), "version": ""}:
        return False
    going = {one.environment_id for one in _going(session, row.id) if not watching.did_nothing(session, one)}
    return bool(going) and environment not in going


def _going(session: Session, plan_id: str) -> Sequence[ExecutionRow]:
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow

    return session.scalars(
        select(ExecutionRow).where(ExecutionRow.plan_id == plan_id, ExecutionRow.status.in_(watching.UNFINISHED))
    ).all()


def _give_up_refused(session: Session, checked: Checked, actor: str) -> None:
    """End executions that were refused before they did anything, where the plan says something else now."""
    from segue.store.transitions import advance

    row = next((row for row in plans.listed(session) if row.plan_name == checked.plan.plan), None)
    if row is None or row.plan_hash == checked.digest:
        return
    for one in _going(session, row.id):
        if watching.did_nothing(session, one):
            advance(session, one, ExecutionStatus.CANCELLED, actor=actor, detail={"for": "it is asked otherwise now"})


def start(
    store: Store,
    settings: Settings,
    parts: Parts,
    asked: Asked,
    environment: str,
    options: Options,
    watch: Watch,
    *,
    detach: bool = False,
) -> Outcome:
    """Store the plan and run it, as `segue run` does; see `executions.run` and `executions.hand_over`."""
    with store.session() as session:
        checked = planned(session, parts, asked, environment)
        _give_up_refused(session, checked, settings.user)
        plans.add(session, settings, checked)
    if detach:
        return executions.hand_over(store, settings, parts, checked.plan.plan, environment, options)
    return executions.run(store, settings, parts, checked.plan.plan, environment, options, watch)


def _tables(asked: Asked, database: Database) -> list[dict[str, Any]]:
    """Return what becomes of each table, in the plan file's words."""
    found: dict[str, list[str]] = {}
    table = asked.table
    heads = _headed(table, database)
    if heads is not None:
        for name, commands in heads:
            found.setdefault(name, []).append(commands)
        table = heads[0][0]
    elif re.search(r"\s", table.strip()) and '"' not in table:
        # Said here, for otherwise the server's grammar would complain of a statement that nobody wrote.
        raise UsageError(
            f'"{table}" is no table', hint='write for example: segue change start orders "ALTER id TYPE bigint"'
        )
    else:
        found[table] = []
    for text in asked.alter:
        for name, commands in _headed(text, database) or [(table, text)]:
            found.setdefault(name, []).append(commands)
    if len(found) > 1 and (asked.columns or asked.partition_by):
        raise UsageError(
            "columns and partitions are of one table, and several are named", hint="write a plan file for that"
        )
    tables: list[dict[str, Any]] = [
        {"table": name, **({"alter": said} if said else {})} for name, said in found.items()
    ]
    if asked.columns:
        tables[0]["columns"] = list(asked.columns)
    if asked.partition_by is not None:
        tables[0]["partition_by"] = asked.partition_by
    if asked.partitions is not None:
        tables[0]["partitions"] = asked.partitions
    for one in tables:
        for commands in one.get("alter", ()):
            _parsed(one["table"], commands, database)
    return tables


def _headed(text: str, database: Database) -> list[tuple[str, str]] | None:
    """Return the tables and commands of whole ALTER TABLE statements; None where a text is not that."""
    try:
        return database.alter_tables(text)
    except SqlSyntaxError:
        return None


def _parsed(table: str, commands: str, database: Database) -> None:
    try:
        database.alter_tables(f"ALTER TABLE {table}\n{commands}")
    except SqlSyntaxError as error:
        if _headed(f"ALTER TABLE {table} ADD a int", database) is None:
            raise InvalidInput(
                f'"{table}" is no table as SQL writes it: {error.message}',
                hint=f"a name that is a word of SQL, or has capitals or spaces, stands in quotes: '\"{table}\"'",
            ) from error
        raise InvalidInput(
            f"ALTER TABLE {table} {' '.join(commands.split())}: {error.message}",
            hint='write what ALTER TABLE says, with or without its head, e.g. "ALTER id TYPE bigint"',
        ) from error


def _checked(document: Mapping[str, Any], parts: Parts) -> Checked:
    try:
        checked = plans.check(json.dumps(document), "<stdin>", parts)
    except InvalidPlan as error:
        # Nobody wrote the file in which the problems have their places.
        said = [problem.message.removeprefix(f'step "{STEP}": ') for problem in error.problems]
        raise InvalidInput(
            said[0], details=said[1:], hint="`segue change start --help` shows what can be asked"
        ) from error
    return replace(checked, source="segue change start")


def _name(tables: Sequence[Mapping[str, Any]], schema: str) -> str:
    """Return a name that says the table, and is another one for every other change."""
    content = json.dumps([schema, *tables], sort_keys=True).encode("utf-8", "surrogatepass")
    words = re.sub(r"[^a-z0-9_]+", "-", "-".join(one["table"] for one in tables).lower()).strip("-_")
    return f"change-{words[:40] or 'table'}-{hashlib.sha256(content).hexdigest()[:6]}"


def _elsewhere(name: str, environment: str) -> str:
    """Return the name that a plan has in an environment alone, as short as names must be."""
    found = f"{name}-{environment}"
    return found if len(found) <= 63 else f"{name}-{hashlib.sha256(environment.encode()).hexdigest()[:6]}"


def _described(tables: Sequence[Mapping[str, Any]]) -> str:
    said = []
    for one in tables:
        words = [" ".join(commands.split()) for commands in one.get("alter", ())]
        words += [f"columns in the order {', '.join(one['columns'])}"] if one.get("columns") else []
        words += [f"PARTITION BY {one['partition_by']}"] if one.get("partition_by") else []
        said.append(f"ALTER TABLE {one['table']} {', '.join(words)}".strip())
    text = "; ".join(said)
    return text if len(text) <= 300 else text[:299] + "…"


def _next(version: str) -> str:
    numbers = version.partition("-")[0].partition("+")[0].split(".")
    return f"{numbers[0]}.{numbers[1]}.{int(numbers[2]) + 1}"


# -- looking ---------------------------------------------------------------------------------------------------------


def find(
    session: Session,
    word: str | None,
    environment: str | None = None,
    *,
    meant: Collection[OnlineChangePhase] = (),
    whole: bool = False,
) -> OnlineChangeRow:
    """Return a change by its name, its table, its execution's id or the beginning of it; else the latest one.

    With `environment`, of those there alone. `meant`: one in such a phase before others, and it must be clear
    where; `whole`: the beginning of an id does not do. Raises NotFound, and UsageError where several are meant.
    """
    from sqlalchemy import select

    from segue.store.tables.online import OnlineChangeRow

    query = select(OnlineChangeRow).order_by(OnlineChangeRow.started_at.desc(), OnlineChangeRow.id)
    if environment is not None:
        query = _in(query, environments.get(session, environment).id)
    rows = session.scalars(query).all()
    where = f' in "{environment}"' if environment is not None else ""
    if word is None:
        if not rows:
            raise NotFound(
                f"there is no online change{where} yet",
                hint='`segue change start TABLE "ALTER …" --env ENV` starts one',
            )
        going = [row for row in rows if row.phase in meant]
        return _one(session, going, "is meant", tables=False) if going else rows[0]
    for row in rows:
        if word in (row.change_name, row.execution_id):
            return row
    name = plain(word)
    of = [row for row in rows if name in (row.table_name, row.table_name.rpartition(".")[2], _qualified(session, row))]
    if of:
        going = [row for row in of if row.phase in meant]
        return _one(session, going or of, f'"{word}" is')
    begun = [row for row in rows if (row.execution_id or "").startswith(word)] if word and not whole else []
    if len({row.execution_id for row in begun}) > 1:
        raise UsageError(f'"{word}" is the beginning of several executions', hint="write more of it")
    if begun:
        return begun[0]
    raise NotFound(
        f'there is no online change "{word}"{where}',
        hint="`segue change list` lists them; what cannot be taken back wants the table's name or the whole id"
        if whole
        else "`segue change list` lists them",
    )


def _one(session: Session, rows: Sequence[OnlineChangeRow], words: str, *, tables: bool = True) -> OnlineChangeRow:
    """Return the newest of changes in one environment, of one table; raises UsageError where there are more."""
    seen: dict[tuple[str, str], OnlineChangeRow] = {}
    for row in rows:
        seen.setdefault((str(_environment(session, row)), _qualified(session, row) if tables else ""), row)
    if len(seen) == 1:
        return rows[0]
    places = len({place for place, _ in seen})
    raise UsageError(
        f"it is not clear which change {words}: "
        + (f"there are some in {places} environments" if places > 1 else "there are some of several tables"),
        details=[f'{row.execution_id}  {row.table_name} in "{place}"  {row.phase}' for (place, _), row in seen.items()],
        hint="say which: --env names the environment" if places > 1 else "write the schema too",
    )


def _qualified(session: Session, row: OnlineChangeRow) -> str:
    """Return a change's table with its schema: what is done in place is recorded as it was asked for."""
    from segue.store.tables.executions import ExecutionRow

    execution = session.get(ExecutionRow, row.execution_id) if row.execution_id else None
    if "." in row.table_name or execution is None:
        return row.table_name
    return f"{execution.plan.target_schema}.{row.table_name}"


def _environment(session: Session, row: OnlineChangeRow) -> str | None:
    from segue.store.tables.executions import ExecutionRow

    execution = session.get(ExecutionRow, row.execution_id) if row.execution_id else None
    return execution.environment.name if execution is not None else None


def listed(session: Session, *, environment: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """Return the latest changes, newest first, each with its environment and its execution's status."""
    from sqlalchemy import select

    from segue.store.tables.online import OnlineChangeRow

    query = select(OnlineChangeRow).order_by(OnlineChangeRow.started_at.desc(), OnlineChangeRow.id)
    if environment is not None:
        query = _in(query, environments.get(session, environment).id)
    return [describe(session, row) for row in session.scalars(query.limit(limit))]


def describe(session: Session, row: OnlineChangeRow) -> dict[str, Any]:
    """Return a change as it stands: the record, its environment, and how its execution is."""
    from segue.store.tables.executions import ExecutionRow

    execution = session.get(ExecutionRow, row.execution_id) if row.execution_id else None
    return {
        **watching.describe_change(row),
        "environment": execution.environment.name if execution is not None else None,
        "plan": execution.plan.plan_name if execution is not None else None,
        "status": execution.status if execution is not None else None,
        "error": execution.error_details if execution is not None and execution.status == "failed" else None,
        "driven": watching.driven(execution) if execution is not None else False,
        "set": tuning.change_in(execution.tuning) if execution is not None else {},
    }


def conflicts(
    store: Store,
    settings: Settings,
    parts: Parts,
    word: str | None,
    environment: str | None = None,
    *,
    limit: int = 100,
) -> tuple[dict[str, Any], int, list[dict[str, Any]]]:
    """Return a change, how many rows it refuses, and some of them with what could be done about each.

    They are read from the target: nobody needs to drive the change.
    """
    with store.session() as session:
        row = find(session, word, environment)
        content = describe(session, row)
        _, url = environments.resolve(session, settings, str(content["environment"]))
    count, found = parts.database(url).online_conflicts(
        url, execution=str(content["execution"]), step=str(content["step"]), limit=limit
    )
    return content, count, [_as_json(conflict, repairs) for conflict, repairs in found]


def way_back(store: Store, settings: Settings, parts: Parts, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how current the old tables of a reversible change are; None for any other.

    `waiting`: the writes that are still to be brought to them, counted up to a million per table, None where that
    could not be seen, for the reason in `why`; `workers`: whether one runs that does it; `due`: whether its time is
    over.
    """
    if content["phase"] != OnlineChangePhase.REVERSIBLE:
        return None
    kept: Mapping[str, Any] = content["metrics"].get("kept") or {}
    waiting: int | None = None
    why = kept.get("why")
    try:
        with store.session() as session:
            workers = watching.worker_alive(session, WorkQueue.EXECUTIONS)
            _, url = environments.resolve(session, settings, str(content["environment"]))
        waiting = parts.database(url).online_waiting(
            url, execution=str(content["execution"]), step=str(content["step"])
        )
        if waiting is None:
            why = "the target knows of no way back of this change"
    except SegueError as error:
        why = error.message
    return {"waiting": waiting, "why": why, "workers": workers, "due": content["cleanup_due"]}


def _as_json(conflict: Conflict, repairs: Sequence[str]) -> dict[str, Any]:
    return {
        "table": plain(conflict.table),
        "direction": conflict.direction,
        "key": dict(conflict.key),
        "sqlstate": conflict.sqlstate,
        "message": conflict.message,
        "rule": conflict.rule,
        "row": dict(conflict.row),
        "seen_at": conflict.seen_at,
        "repairs": list(repairs),
    }


# -- setting ---------------------------------------------------------------------------------------------------------


def set_(
    store: Store, settings: Settings, word: str | None, changes: Mapping[str, Any], environment: str | None = None
) -> dict[str, Any]:
    """Set how a change goes on, and limits of its data work; who drives it follows within about two seconds.

    Raises Blocked when its execution is over.
    """
    from segue.store.tables.executions import ExecutionRow

    with store.session() as session:
        row = find(session, word, environment, meant=GOING if changes else ())
        execution = session.get_one(ExecutionRow, row.execution_id)
        if changes and execution.status in tuning.OVER:
            raise Blocked(
                f'the change of "{row.table_name}" is {row.phase}: there is nothing left to set',
                hint="`segue change show` shows how it stands",
            )
        tuning.tune(session, execution, changes, actor=settings.user)
        session.flush()
        return describe(session, row)


def cut_over(store: Store, settings: Settings, word: str | None, environment: str | None = None) -> dict[str, Any]:
    """Let a change swap as soon as it can. Raises Blocked when it has swapped, or is over."""
    with store.session() as session:
        row = find(session, word, environment, meant=GOING)
        if row.phase in (OnlineChangePhase.REVERSIBLE, OnlineChangePhase.COMPLETED):
            raise Blocked(
                f'the change of "{row.table_name}" in "{_environment(session, row)}" has swapped already: '
                f"it is {row.phase}"
            )
        name = row.change_name
    return set_(store, settings, name, {"cutover": "now"})


# -- cleaning up -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What became of a change whose way back was to end: `error` says why that is still to be done."""

    change: Mapping[str, Any]
    error: SegueError | None = None


def ending(session: Session, environment: str, word: str | None = None, *, now: bool = False) -> list[str]:
    """Return the names of changes whose way back is to end: its time is over, or with `now` that of the named one.

    Raises Blocked when a change that is named cannot end yet.
    """
    from sqlalchemy import select

    from segue.store.tables.online import OnlineChangeRow

    env_row = environments.get(session, environment)
    if word is None:
        query = _in(select(OnlineChangeRow).where(OnlineChangeRow.phase == OnlineChangePhase.REVERSIBLE), env_row.id)
        rows = session.scalars(query.order_by(OnlineChangeRow.started_at))
        return [row.change_name for row in rows if _why_not(session, row, now=now) is None]
    row = find(session, word, environment, meant=(OnlineChangePhase.REVERSIBLE,), whole=now)
    reason = _why_not(session, row, now=now)
    if reason is not None:
        raise Blocked(f'the way back of the change of "{row.table_name}" cannot end: {reason[0]}', hint=reason[1])
    return [row.change_name]


def cleanup(
    store: Store, settings: Settings, parts: Parts, names: Sequence[str], note: Callable[[str], None]
) -> list[Cleaned]:
    """End the way back of changes: mark what was kept for it, drop it on the target, and close the record.

    What cannot be dropped now, because its locks are not to be had, stays marked.
    """
    done = []
    for name in names:
        error: SegueError | None = None
        _mark(store, settings, name)
        try:
            _retire(store, settings, parts, name, note)
            _close(store, settings, name)
        except SegueError as failure:
            error = failure
        with store.session() as session:
            done.append(Cleaned(describe(session, find(session, name)), error))
    return done


def over(session: Session, row: OnlineChangeRow) -> bool:
    """Return whether a change's way back is to end, because its time is over."""
    return _why_not(session, row, now=False) is None


def _why_not(session: Session, row: OnlineChangeRow, *, now: bool) -> tuple[str, str] | None:
    """Return why a change's way back cannot end, and what to do; None when it can."""
    from segue.store.tables.executions import ExecutionRow

    if row.phase != OnlineChangePhase.REVERSIBLE:
        return f"it is {row.phase}", ""
    execution = session.get_one(ExecutionRow, row.execution_id)
    if execution.status != ExecutionStatus.COMPLETED:
        return f"its execution {execution.id} is {execution.status}", "`segue status` shows it"
    until: datetime | None = watching.describe_change(row)["reversible_until"]
    if until is not None and until > clock.now() and not now:
        return f"it is open until {until:%Y-%m-%d %H:%M} UTC", "--now ends it before its time"
    return None


def _mark(store: Store, settings: Settings, name: str) -> None:
    from segue.store import ledger

    with store.session() as session:
        row = find(session, name)
        for shadow in row.shadows:
            if shadow.marked_for_cleanup:
                continue
            shadow.marked_for_cleanup = True
            ledger.append(
                session,
                actor=settings.user,
                action="marked-for-cleanup",
                subject="shadow_tables",
                subject_id=shadow.id,
                detail={"change": row.change_name, "original": shadow.original_table, "shadow": shadow.shadow_table},
            )


def _retire(store: Store, settings: Settings, parts: Parts, name: str, note: Callable[[str], None]) -> None:
    """Drop on the target what was kept for the way back."""
    from segue.store.tables.executions import ExecutionRow

    with store.session() as session:
        row = find(session, name)
        execution = session.get_one(ExecutionRow, row.execution_id)
        _, url = environments.resolve(session, settings, execution.environment.name)
        schema = execution.plan.target_schema
        key = EffectKey(execution.id, execution.plan.plan_name, execution.plan_hash, str(row.step_name), FORWARD, 0)
    holder = f"{settings.user}@{socket.gethostname()} pid {os.getpid()}"
    target = parts.database(url).open_target(url, execution=key.execution, holder=holder, schema=schema)
    try:
        if not target.changing(key):
            note("nothing of it is on the target any more")
            return
        drifted = target.drift(schema) is not None
        change = target.online(key, ChangeSpec(()))
        try:
            change.retire(Patience(locks=LOCKS, work=_WORK), note)
        finally:
            change.close()
        if not drifted:
            target.remember(schema, key)
    finally:
        target.close()


def _close(store: Store, settings: Settings, name: str) -> None:
    from segue.store.tables.executions import ExecutionRow
    from segue.store.transitions import advance

    with store.session() as session:
        row = find(session, name)
        if row.phase == OnlineChangePhase.REVERSIBLE:
            advance(
                session,
                row,
                OnlineChangePhase.COMPLETED,
                actor=settings.user,
                detail={"change": row.change_name, "way_back": "ended"},
                completed_at=clock.now(),
            )
        for shadow in row.shadows:
            shadow.is_active = False
        execution = session.get_one(ExecutionRow, row.execution_id)
        moment = clock.now() - timedelta(seconds=1)
        # Without the old tables nothing of this execution can be taken back any more.
        if execution.window_until is None or execution.window_until > moment:
            execution.window_until = moment


def _in(query: Any, environment: str) -> Any:
    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.online import OnlineChangeRow

    return query.join(ExecutionRow, ExecutionRow.id == OnlineChangeRow.execution_id).where(
        ExecutionRow.environment_id == environment
    )
