"""Look at everything Segue needs, and say what is wrong, why, and what to type."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from segue import __version__
from segue.errors import SegueError
from segue.model.urls import public

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from segue.model.probe import Probe
    from segue.settings import Settings
    from segue.store import Store
    from segue.store.tables.environments import EnvironmentRow

#: How many databases are looked at together.
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong: what, why, and what to do about it."""

    what: str
    why: str
    do: str


@dataclass(frozen=True, slots=True)
class _Sealed:
    """A database that was not looked at, because the key does not open its URL."""

    error: SegueError


@dataclass(slots=True)
class Report:
    """What is set up, what is wrong, and what to type next."""

    version: str = __version__
    store: dict[str, Any] = field(default_factory=lambda: {"url": None, "server_version": None, "schema_head": None})
    home: str | None = None
    embedded: bool = True
    plans: int = 0
    workers: list[dict[str, Any]] = field(default_factory=list)
    environments: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    next: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return what `segue doctor --json` promises."""
        return {
            "version": self.version,
            "store": self.store,
            "workers": self.workers,
            "environments": self.environments,
            "problems": [asdict(problem) for problem in self.problems],
            "next": self.next,
        }

    def add(self, what: str, error: SegueError) -> None:
        """Record an error as a problem."""
        why = " ".join([error.message, *error.details[:3]])
        self.problems.append(Problem(what, why, error.hint or "correct it there"))


def examine(load: Callable[[], Settings], probe: Callable[[str], Probe]) -> Report:
    """Look at settings, store, key, environments and runs; never raises for what is wrong with them."""
    report = Report()
    try:
        settings = load()
    except SegueError as error:
        report.add("settings", error)
        return report
    report.home = str(settings.home)
    report.embedded = settings.store is None
    if settings.store is not None:
        report.store["url"] = public(settings.store)
    try:
        _through_store(report, settings, probe)
    except SegueError as error:
        report.add("store", error)
    return report


def _through_store(report: Report, settings: Settings, probe: Callable[[str], Probe]) -> None:
    from segue.store import open_store

    with open_store(settings) as store:
        report.store = {
            "url": public(store.url),
            "server_version": store.server_version(),
            "schema_head": store.head(),
        }
        with store.session() as session:
            _workers(report, session)
            _silent_runs(report, session)
            _next(report, session)
        _environments(report, settings, store, probe)
    _key(report, settings)


def _workers(report: Report, session: Session) -> None:
    from sqlalchemy import inspect, select

    from segue.model.lifecycles import WorkerStatus
    from segue.store.tables.workers import WorkerRow

    names = [attribute.key for attribute in inspect(WorkerRow).column_attrs]
    there = session.scalars(select(WorkerRow).where(WorkerRow.status != WorkerStatus.STOPPED))
    report.workers = [{name: getattr(row, name) for name in names} for row in there]


def _silent_runs(report: Report, session: Session) -> None:
    from sqlalchemy import select

    from segue.services import watching
    from segue.store.tables.executions import ExecutionRow

    running = session.scalars(select(ExecutionRow).where(ExecutionRow.status == "running"))
    for row in running:
        if watching.driven(row):
            continue
        since = f"since {row.heartbeat_at:%Y-%m-%d %H:%M} UTC" if row.heartbeat_at else "any more"
        report.problems.append(
            Problem(
                f"execution {row.id}",
                f'"{row.plan.plan_name}" on "{row.environment.name}" is under way, but nobody has driven it {since}',
                f"go on with `segue resume {row.id}`, or take it back with `segue rollback {row.id}`",
            )
        )


def _next(report: Report, session: Session) -> None:
    from sqlalchemy import func, select

    from segue.services import environments
    from segue.store.tables.executions import ExecutionRow
    from segue.store.tables.plans import PlanRow

    report.plans = session.scalar(select(func.count()).select_from(PlanRow)) or 0
    known = [row.name for row in environments.listed(session)]
    if not known:
        report.next.append("segue demo")
        report.next.append("segue env add NAME --type staging --url postgresql://user@host/database")
    elif not report.plans:
        report.next.append("segue plan add PLAN.yaml")
    elif not session.scalar(select(func.count()).select_from(ExecutionRow)):
        plan = session.scalar(select(PlanRow.plan_name).order_by(PlanRow.created_at.desc()).limit(1))
        report.next.append(f"segue run {plan} --env {known[0]}")
    else:
        report.next.append("segue status")


def _environments(report: Report, settings: Settings, store: Store, probe: Callable[[str], Probe]) -> None:
    from segue.services import environments
    from segue.store import secrets

    with store.session() as session:
        rows = environments.listed(session)

    def look(row: EnvironmentRow) -> Probe | SegueError | _Sealed:
        try:
            url = secrets.decrypt(settings, row.database_url)
        except SegueError as error:
            return _Sealed(error)
        try:
            return probe(url)
        except SegueError as error:
            return error

    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        found = list(pool.map(look, rows))
    sealed: dict[tuple[str, str], list[str]] = {}
    for row, seen in zip(rows, found, strict=True):
        entry: dict[str, Any] = {"name": row.name, "type": row.type, "database": row.url_hint}
        if isinstance(seen, _Sealed):
            entry |= {"reachable": None, "server_version": None}
            sealed.setdefault((seen.error.message, seen.error.hint), []).append(row.name)
        elif isinstance(seen, SegueError):
            entry |= {"reachable": False, "server_version": None}
            report.add(f'environment "{row.name}"', seen)
        else:
            entry |= {"reachable": True, "server_version": seen.server_version}
            report.problems += _concerns(row, seen)
        report.environments.append(entry)
    # One key is behind all of them: what is wrong with it is said once.
    for (why, do), names in sealed.items():
        what = ", ".join(f'"{name}"' for name in names)
        report.problems.append(Problem(f"environment{'s' if len(names) > 1 else ''} {what}", why, do))


def _concerns(row: EnvironmentRow, seen: Probe) -> list[Problem]:
    from segue.services.environments import remarks

    return [Problem(f'environment "{row.name}"', why, do) for why, do in remarks(seen)]


def _key(report: Report, settings: Settings) -> None:
    """Try the key, unless there is none yet: it is made when the first environment is added."""
    from segue.store import secrets

    if settings.key is None and not (settings.home / "key").exists():
        return
    try:
        secrets.encrypt(settings, "")
    except SegueError as error:
        if not any(problem.why == error.message for problem in report.problems):
            report.add("key", error)
