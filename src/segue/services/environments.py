"""Keep the environments: the databases that plans run on, their URLs encrypted, their size and traffic measured."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from segue.clock import now
from segue.errors import Blocked, InvalidInput, NotFound, SegueError, UsageError
from segue.model import urls
from segue.model.plans import NAME_PATTERN
from segue.model.vocabulary import DataSize, EnvironmentType, Level, Mode
from segue.model.windows import FAR, Window

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from segue.model.cleaning import Cleaned
    from segue.model.probe import Probe
    from segue.settings import Settings
    from segue.store import Store
    from segue.store.tables.environments import EnvironmentRow

#: An execution in one of these states is at work, or will be without being asked.
UNFINISHED = ("pending", "running", "waiting", "paused")
#: What the target remembers of a failed execution is what lets it go on.
RESUMABLE = (*UNFINISHED, "failed")


@dataclass(frozen=True, slots=True)
class Wanted:
    """An environment as a user asks for it; `data_size` and `traffic_level` None: as measured."""

    name: str
    type: EnvironmentType
    schema: str = "public"
    description: str | None = None
    deployment_type: Mode = Mode.MANUAL
    maintenance_window: str | None = None
    promotion_order: int | None = None
    data_size: DataSize | None = None
    traffic_level: Level | None = None
    max_slots: int | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """What came of adding an environment: the row, what the database looked like, and what to say about it."""

    row: EnvironmentRow
    probe: Probe | None
    warnings: list[str] = field(default_factory=list)


class Cleanable(Protocol):
    """The part of a database that cleaning needs."""

    def clean(self, url: str, *, holder: str, export: Callable[[list[dict[str, Any]]], None]) -> Cleaned:
        """Remove Segue's schema after `export` has kept the history, and what changes that are gone have left."""
        ...


def given_url(
    *, url: str | None, stdin: Callable[[], str] | None, variable: str | None, environ: Mapping[str, str]
) -> str:
    """Return the database URL from the one place where it was given; none given: libpq's `PG*` variables.

    Raises UsageError when it was given twice, nowhere, or with a password in the arguments.
    """
    if sum(source is not None for source in (url, stdin, variable)) > 1:
        raise UsageError("the database URL was given more than once", hint="use one of --url, --url-stdin, --url-env")
    if url is not None and urls.has_password(url):
        # Everybody on this machine can read the arguments of a process, and the shell keeps them.
        raise UsageError(
            "a URL with a password does not belong in the arguments: other users of this machine can read them",
            hint="put it into a variable and give its name (--url-env DATABASE_URL), or pipe it in (--url-stdin); "
            "or leave the password out and keep it in ~/.pgpass",
        )
    if url is not None:
        return _checked(url, "--url")
    if stdin is not None:
        return _checked(stdin(), "the standard input")
    if variable is not None:
        if not environ.get(variable):
            raise UsageError(f'the variable "{variable}" is empty or not set')
        return _checked(environ[variable], f'the variable "{variable}"')
    found = urls.from_environment(environ)
    if found is None:
        raise UsageError(
            "no database was named",
            hint="give --url postgresql://user@host/database, --url-env VARIABLE, --url-stdin, or set PGHOST, "
            "PGDATABASE and so on",
        )
    return found


def add(
    session: Session,
    settings: Settings,
    wanted: Wanted,
    url: str,
    look: Callable[[str], Probe],
    *,
    check: bool = False,
    replace: bool = False,
) -> Added:
    """Store an environment, measured when it can be reached; with `check` it must be.

    Under a name that is replaced by another database, or by another type, approvals given before do not count any
    more. Raises InvalidInput for a bad or taken name or a bad window, and what `look` raises when `check` is set.
    """
    from sqlalchemy.exc import IntegrityError

    from segue.store import ledger, secrets
    from segue.store.tables.environments import EnvironmentRow

    _validate(wanted)
    row = _find(session, wanted.name)
    if row is not None and not replace:
        state = "" if row.is_active else ", though it was removed while executions of it are kept"
        raise InvalidInput(
            f'the environment "{wanted.name}" exists already{state}',
            hint="--replace stores it anew under the same name; `segue env show` shows it",
        )
    if row is not None:
        _refuse_running(session, row, "replaced")
    warnings: list[str] = []
    probe = None
    try:
        probe = look(url)
    except SegueError as error:
        if check:
            raise
        warnings.append(f"not measured: {error.message}")
    warnings += _remarks(wanted, probe)
    action = "replaced" if row is not None else "added"
    if row is not None and (row.url_hint, row.type) != (urls.place(url), wanted.type.value):
        _revoke_approvals(session, row, settings.user)
    if row is None:
        row = EnvironmentRow(name=wanted.name)
        session.add(row)
    row.type = wanted.type.value
    row.description = wanted.description
    row.database_url = secrets.encrypt(settings, url)
    row.url_hint = urls.place(url)
    row.schema_name = wanted.schema
    row.data_size = (wanted.data_size or (probe.data_size if probe else DataSize.SMALL)).value
    row.traffic_level = (wanted.traffic_level or (probe.traffic_level if probe else Level.LOW)).value
    row.deployment_type = wanted.deployment_type.value
    row.maintenance_window = wanted.maintenance_window
    row.promotion_order = wanted.promotion_order
    row.max_slots = wanted.max_slots
    row.measured = {**asdict(probe), "at": now().isoformat()} if probe else None
    row.is_active = True
    try:
        session.flush()
    except IntegrityError as error:
        # Somebody else has added the same name since we looked.
        raise InvalidInput(f'the environment "{wanted.name}" exists already') from error
    session.refresh(row)
    ledger.append(
        session,
        actor=settings.user,
        action=action,
        subject="environments",
        subject_id=row.id,
        detail={"name": row.name, "type": row.type, "database": row.url_hint},
    )
    return Added(row, probe, warnings)


def listed(session: Session, *, inactive: bool = False) -> list[EnvironmentRow]:
    """Return the environments in promotion order, then by name."""
    from sqlalchemy import select

    from segue.store.tables.environments import EnvironmentRow

    query = select(EnvironmentRow).order_by(EnvironmentRow.promotion_order.nulls_last(), EnvironmentRow.name)
    if not inactive:
        query = query.where(EnvironmentRow.is_active)
    return list(session.scalars(query))


def get(session: Session, name: str) -> EnvironmentRow:
    """Return an environment by name, active or not; raises NotFound with the known names."""
    row = _find(session, name)
    if row is not None:
        return row
    known = [found.name for found in listed(session)]
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        hint = f'did you mean "{close[0]}"?'
    elif known:
        more = f" and {len(known) - 8} more; `segue env list` shows them" if len(known) > 9 else ""
        hint = "known are " + ", ".join(known[:8] if more else known) + more
    else:
        hint = "there are none yet; add one with `segue env add`"
    raise NotFound(f'there is no environment "{name}"', hint=hint)


def resolve(session: Session, settings: Settings, name: str) -> tuple[EnvironmentRow, str]:
    """Return an environment's row and its URL, password included, for whoever opens the database.

    Raises NotFound with the known names, Blocked when it was removed, ConfigurationError when the key is wrong.
    """
    from segue.store import secrets

    row = get(session, name)
    if not row.is_active:
        raise Blocked(
            f'the environment "{name}" was removed', hint=f"`segue env add {name} --replace …` brings it back"
        )
    return row, secrets.decrypt(settings, row.database_url)


def places(store: Store, settings: Settings) -> Callable[[str], str]:
    """Return what finds an environment's URL by its name; it raises as `resolve` does."""

    def find(name: str) -> str:
        with store.session() as session:
            return resolve(session, settings, name)[1]

    return find


def remove(session: Session, settings: Settings, name: str) -> bool:
    """Remove an environment: delete it, or keep it inactive while executions of it are stored (then True).

    Raises Blocked while an execution runs on it.
    """
    from sqlalchemy import func, select

    from segue.store import ledger
    from segue.store.tables.executions import ExecutionRow

    row = get(session, name)
    _refuse_running(session, row, "removed")
    kept = session.scalar(select(func.count()).select_from(ExecutionRow).where(ExecutionRow.environment_id == row.id))
    ledger.append(
        session,
        actor=settings.user,
        action="deactivated" if kept else "removed",
        subject="environments",
        subject_id=row.id,
        detail={"name": row.name, "database": row.url_hint, "executions": kept},
    )
    if kept:
        row.is_active = False
    else:
        session.delete(row)
    return bool(kept)


def clean(store: Store, settings: Settings, name: str, database: Callable[[str], Cleanable]) -> tuple[Cleaned, int]:
    """Take Segue's schema out of an environment's database; its history goes to the ledger first.

    Returns what was removed, and how many history rows were kept. Raises Blocked while an execution runs,
    can still go on or be rolled back, Busy while somebody holds the target.
    """
    from segue.store import ledger, secrets

    with store.session() as session:
        row = get(session, name)
        _refuse_running(session, row, "cleaned", RESUMABLE)
        _refuse_window(session, row)
        url = secrets.decrypt(settings, row.database_url)
        subject, detail = row.id, {"name": row.name, "database": row.url_hint}
    kept = 0

    def export(rows: list[dict[str, Any]]) -> None:
        nonlocal kept
        kept = len(rows)
        with store.session() as session:
            _refuse_needed(session, {str(row["execution"]) for row in rows})
        # A transaction of its own, committed before anything is dropped: a crash in between leaves a history that is
        # kept twice, never one that is lost.
        with store.session() as session:
            ledger.append(
                session,
                actor=settings.user,
                action="cleaned",
                subject="environments",
                subject_id=subject,
                detail={**detail, "history": rows},
            )

    return database(url).clean(url, holder=settings.user, export=export), kept


def describe(row: EnvironmentRow) -> dict[str, Any]:
    """Return an environment as faces show it: without user and password."""
    return {
        "id": row.id,
        "name": row.name,
        "type": row.type,
        "description": row.description,
        "database": row.url_hint,
        "schema": row.schema_name,
        "data_size": row.data_size,
        "traffic_level": row.traffic_level,
        "deployment_type": row.deployment_type,
        "maintenance_window": row.maintenance_window,
        **_hours(row),
        "promotion_order": row.promotion_order,
        "max_slots": row.max_slots,
        "active": row.is_active,
        "last_migration": row.last_migration,
        "schema_version": row.schema_version,
        "measured": {word: value for word, value in row.measured.items() if word != "user"} if row.measured else None,
    }


def _hours(row: EnvironmentRow) -> dict[str, Any]:
    """Return until when the window is open, if it is, and when it opens next; None where there is no such moment."""
    try:
        window = Window.parse(row.maintenance_window) if row.maintenance_window is not None else None
    except InvalidInput:
        window = None
    if window is None:
        return {"open_until": None, "opens_at": None}
    closes = window.open_at(now())
    if closes == FAR:
        return {"open_until": None, "opens_at": None}
    return {"open_until": closes, "opens_at": window.next_opening(closes or now())}


def remarks(probe: Probe) -> list[tuple[str, str]]:
    """Return what stands in the way of a migration there, each with what to do about it."""
    found = []
    if probe.pooler:
        found.append(("the URL leads through a connection pooler", "migrations need the URL of the server itself"))
    if probe.read_only:
        found.append(("the database is read-only, perhaps a replica", "migrations need the primary"))
    if not probe.can_create:
        grant = f'GRANT CREATE ON DATABASE "{probe.database}" TO "{probe.user}"'
        found.append((f'role "{probe.user}" may not create a schema', f"as an owner: {grant}"))
    return found


def _checked(text: str, source: str) -> str:
    text = text.strip()
    if not urls.is_url(text):
        # The text itself stays out of the message: it may be a password.
        raise UsageError(
            f"{source} does not hold a database URL",
            hint="write postgresql://user@host:5432/database, or service=NAME, or host=… dbname=…",
        )
    return text


def _validate(wanted: Wanted) -> None:
    if not re.fullmatch(NAME_PATTERN, wanted.name):
        raise InvalidInput(
            f'"{wanted.name}" is no name for an environment',
            hint="lower-case letters, digits, - and _, beginning with a letter or digit, at most 63",
        )
    if wanted.maintenance_window is not None:
        Window.parse(wanted.maintenance_window)
    if not wanted.schema or "\0" in wanted.schema or len(wanted.schema.encode()) > 63:
        raise InvalidInput(f'"{wanted.schema}" is no name for a schema', hint="1 to 63 bytes")


def _remarks(wanted: Wanted, probe: Probe | None) -> list[str]:
    if probe is None:
        assumed = [
            f"{words} {value}"
            for words, given, value in (
                ("data size", wanted.data_size, DataSize.SMALL.value),
                ("traffic", wanted.traffic_level, Level.LOW.value),
            )
            if given is None
        ]
        return [f"assumed until it is: {', '.join(assumed)}"] if assumed else []
    return [f"{why}; {do}" for why, do in remarks(probe)]


def _find(session: Session, name: str) -> EnvironmentRow | None:
    from sqlalchemy import select

    from segue.store.tables.environments import EnvironmentRow

    return session.scalars(select(EnvironmentRow).where(EnvironmentRow.name == name)).one_or_none()


def _refuse_running(session: Session, row: EnvironmentRow, verb: str, states: tuple[str, ...] = UNFINISHED) -> None:
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow

    running = session.scalars(
        select(ExecutionRow).where(ExecutionRow.environment_id == row.id, ExecutionRow.status.in_(states))
    ).all()
    if running:
        raise Blocked(
            f'the environment "{row.name}" cannot be {verb}: an execution on it has not ended',
            details=[f"{found.id}  {found.plan.plan_name}  {found.status}" for found in running],
            hint="`segue status` shows it; finish it, roll it back or `segue cancel` it first",
        )


def _revoke_approvals(session: Session, row: EnvironmentRow, actor: str) -> None:
    """Take back what was approved for this environment: by its name another database is meant from now on."""
    from sqlalchemy import func, select

    from segue.model.lifecycles import ApprovalStatus
    from segue.store.tables.approvals import ApprovalRow
    from segue.store.transitions import advance

    granted = select(ApprovalRow).where(
        ApprovalRow.environment_id == row.id, ApprovalRow.status == ApprovalStatus.GRANTED
    )
    for approval in session.scalars(granted).all():
        advance(
            session,
            approval,
            ApprovalStatus.REVOKED,
            actor=actor,
            detail={"because": f'environment "{row.name}" was replaced'},
            revoked_by=actor,
            revoked_at=func.clock_timestamp(),
        )


def _refuse_needed(session: Session, executions: set[str]) -> None:
    """Refuse to remove the history of executions that go by another environment's name, or by another store's."""
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow

    known = {row.id: row for row in session.scalars(select(ExecutionRow).where(ExecutionRow.id.in_(executions)))}
    details = [f"{name}  of another store" for name in sorted(executions - known.keys())]
    details += [
        f"{row.id}  {row.plan.plan_name}  {row.status} in {row.environment.name}"
        for row in known.values()
        if row.status in RESUMABLE or (row.window_until is not None and row.window_until > now())
    ]
    if details:
        raise Blocked(
            "other executions on this database may still need what would be removed",
            details=details,
            hint="finish or roll them back where they were started; without it, one would repeat what it has done",
        )


def _refuse_window(session: Session, row: EnvironmentRow) -> None:
    from sqlalchemy import select

    from segue.store.tables.executions import ExecutionRow

    open_windows = session.scalars(
        select(ExecutionRow).where(ExecutionRow.environment_id == row.id, ExecutionRow.window_until > now())
    ).all()
    if open_windows:
        raise Blocked(
            f'the environment "{row.name}" cannot be cleaned: a rollback window is open',
            details=[
                f"{found.id}  {found.plan.plan_name}  until {found.window_until:%Y-%m-%d %H:%M} UTC"
                for found in open_windows
            ],
            hint="a rollback needs what would be removed; wait for the window to end",
        )
