"""Live moves of tables from one environment to another: begun, switched, taken back, ended; all in the ledger."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from dataclasses import replace as changed
from typing import TYPE_CHECKING, Any, Protocol

from segue.errors import Blocked, InvalidInput, NotFound, SegueError, UsageError
from segue.model.checks import Light
from segue.services import reshaping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from segue.model.checks import Finding
    from segue.model.moves import MoveStanding, MoveStarted, MoveSwitched
    from segue.model.shapes import Shape
    from segue.model.verifying import TableVerdict, VerifySpec
    from segue.ports import Patience
    from segue.ports.moving import Mirror, Mover, Reshaper, Router
    from segue.ports.verifying import Verifier
    from segue.settings import Settings
    from segue.store import Store

#: The ledger's subject; its id is the move's name.
SUBJECT = "moves"


class Moving(Protocol):
    """The part of a database that a move needs."""

    def mover(self, move: str, source: str, target: str) -> Mover:
        """Take up a move."""
        ...

    def mirror(self, move: str, source: str, target: str, home: str) -> Mirror:
        """Take up read-only copies."""
        ...

    def router(self, move: str, source: str, target: str) -> Router:
        """Take up what an application is told of a move."""
        ...

    def reshaper(self, move: str, source: str, target: str, shape: Shape) -> Reshaper:
        """Take up a move to tables of another shape."""
        ...

    def verifier(self, a: str, b: str, jobs: int) -> Verifier:
        """Compare two databases."""
        ...


@dataclass(frozen=True, slots=True)
class Move:
    """A move as it was created: environments by name, tables as the user wrote them."""

    name: str
    source: str
    target: str
    tables: tuple[str, ...]
    #: Whether the tables are made on the target, rather than expected there.
    make_tables: bool = False
    #: Whether it ends with the copy, and follows nothing.
    once: bool = False
    #: What the tables become; None where they are the same on the target.
    shape: Shape | None = None
    #: Whether the target is a read-only copy for good, and the source stays the tables' home.
    read_only: bool = False


def create(store: Store, settings: Settings, move: Move, database: Callable[[str], Moving]) -> list[str]:
    """Record a move; nothing is done in the databases. Return what a person should know beforehand.

    Raises InvalidInput for a bad or taken name, and for a shape that does not fit the databases.
    """
    if not re.fullmatch(r"[a-z0-9]{1,16}", move.name):
        raise InvalidInput(f'"{move.name}" cannot name a move', hint="use at most 16 lower-case letters and digits")
    if not move.tables:
        raise UsageError("no table is named", hint="name each with --table")
    if move.source == move.target:
        raise UsageError("source and target are the same environment", hint="name two with --from and --to")
    taken = mover(store, settings, move, database)
    if _entries(store, move.name)[-1:] not in ([], ["completed"], ["cancelled"]):
        raise InvalidInput(f'the move "{move.name}" exists already', hint="`segue move status` shows it")
    if move.read_only and (move.once or move.shape is not None):
        raise UsageError("a read-only copy is followed, as it is", hint="leave out --once and --shape")
    detail = _created(move)
    warnings = []
    if move.shape is not None:
        if move.once or move.make_tables:
            raise UsageError(
                "a move to another shape makes no tables and is followed", hint="leave --schema and --once"
            )
        warnings = reshaping.of(taken).check()
    _record(store, settings, move.name, "created", detail)
    return warnings


def replace(store: Store, settings: Settings, move: Move) -> None:
    """Record that a move that has not ended is another one from here on, such as a copy with a new home."""
    _record(store, settings, move.name, "created", _created(move))


def _created(move: Move) -> dict[str, Any]:
    detail: dict[str, Any] = {"source": move.source, "target": move.target, "tables": list(move.tables)}
    detail |= {"make_tables": move.make_tables, "once": move.once, "read_only": move.read_only}
    if move.shape is not None:
        detail["shape"] = move.shape.document()
    return detail


def known(store: Store) -> list[Move]:
    """Return every move that has a name, each as it was created last, in the order of that."""
    from sqlalchemy import func, select

    from segue.store.tables.ledger import LedgerRow

    with store.session() as session:
        names = session.execute(
            select(LedgerRow.subject_id, func.max(LedgerRow.id))
            .where(LedgerRow.subject == SUBJECT, LedgerRow.action == "created")
            .group_by(LedgerRow.subject_id)
            .order_by(func.max(LedgerRow.id))
        ).all()
    return [find(store, str(name)) for name, _ in names]


def find(store: Store, name: str) -> Move:
    """Return a move by its name, as it was created last; raises NotFound."""
    from sqlalchemy import select

    from segue.store.tables.ledger import LedgerRow

    with store.session() as session:
        row = session.scalars(
            select(LedgerRow)
            .where(LedgerRow.subject == SUBJECT, LedgerRow.subject_id == name, LedgerRow.action == "created")
            .order_by(LedgerRow.id.desc())
            .limit(1)
        ).first()
        if row is None:
            raise NotFound(f'there is no move "{name}"', hint="`segue move create` makes one")
        detail = row.detail
        return Move(
            name,
            detail["source"],
            detail["target"],
            tuple(detail["tables"]),
            bool(detail.get("make_tables")),
            bool(detail.get("once")),
            reshaping.kept(detail.get("shape")),
            bool(detail.get("read_only")),
        )


def current(store: Store, name: str) -> Move | None:
    """Return a move that has not ended, None where there is none."""
    return find(store, name) if _entries(store, name)[-1:] == ["created"] else None


def completed(store: Store, name: str) -> bool:
    """Return whether the last move of this name ended with the target in use."""
    return _entries(store, name)[-1:] == ["completed"]


def _entries(store: Store, name: str) -> list[str]:
    from sqlalchemy import select

    from segue.store.tables.ledger import LedgerRow

    with store.session() as session:
        query = select(LedgerRow.action).where(
            LedgerRow.subject == SUBJECT,
            LedgerRow.subject_id == name,
            LedgerRow.action.in_(["created", "completed", "cancelled"]),
        )
        return list(session.scalars(query.order_by(LedgerRow.id)))


class StepMoves:
    """See `segue.ports.moving.Moves`: the moves of one environment, for the steps of a plan."""

    def __init__(self, store: Store, settings: Settings, environment: str, database: Callable[[str], Moving]) -> None:
        self._store = store
        self._settings = settings
        self._environment = environment
        self._database = database

    def begin(
        self,
        name: str,
        to: str,
        tables: Sequence[str],
        patience: Patience,
        note: Callable[[str], None],
        *,
        make_tables: bool = False,
        read_only: bool = False,
    ) -> Driver:
        """Create a move, or take it up."""
        move = Move(name, self._environment, to, tuple(tables), make_tables, read_only=read_only)
        known = current(self._store, name)
        if known is None:
            create(self._store, self._settings, move, self._database)
        elif known != move:
            raise Blocked(
                f'there is a move "{name}" of other tables, or between other environments',
                hint="give this one another name, or end that one with `segue move cancel`",
            )
        return Driver(self._store, self._settings, name, self._database, patience, note)

    def find(self, name: str, patience: Patience, note: Callable[[str], None]) -> Driver | None:
        """Take up a move that has not ended."""
        known = current(self._store, name)
        if known is None:
            return None
        if known.source != self._environment:
            raise Blocked(
                f'the move "{name}" goes from {known.source}, and this plan runs on {self._environment}',
                hint="check the environment, and the name of the move",
            )
        return Driver(self._store, self._settings, name, self._database, patience, note)


class Driver:
    """One command's work on a move."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        name: str,
        database: Callable[[str], Moving],
        patience: Patience,
        note: Callable[[str], None],
    ) -> None:
        """Find the move; raises NotFound where there is none, or it has ended."""
        self.move = find(store, name)
        if current(store, name) is None:
            raise NotFound(f'the move "{name}" has ended', hint="`segue move create` makes another")
        self._store = store
        self._settings = settings
        self._database = database
        self.mover = mover(store, settings, self.move, database)
        self._patience = patience
        self._note = note
        self._database = database

    def check(self) -> list[Finding]:
        """Look for all that stands in its way; nothing is changed."""
        move = self.move
        return self.mover.preflight(move.tables, make_tables=move.make_tables, once=move.once)

    def start(self, workers: int) -> MoveStarted:
        """Copy, follow, and arm the way back; goes on where an earlier start ended. One that copies once ends so.

        Raises InvalidInput with all that stands in the way, before anything is made.
        """
        self._clear()
        do = self.mover.copy if self.move.once else self.mover.start
        with self._noted("completed" if self.move.once else "started") as detail:
            done = do(
                self.move.tables,
                workers=workers,
                patience=self._patience,
                note=self._note,
                make_tables=self.move.make_tables,
            )
            detail.update(asdict(done))
        return done

    def _clear(self) -> None:
        """Tell what was found beforehand, and refuse where something of it would end the move later."""
        found = [finding for finding in self.check() if finding.light is not Light.GREEN]
        wrong = [finding for finding in found if finding.light is Light.RED]
        if wrong:
            details = [
                line
                for finding in wrong
                for line in (
                    f"{finding.what}: {finding.found}",
                    *(f"  {one}" for one in finding.details),
                    *_advice(finding),
                )
            ]
            raise InvalidInput(
                f'the move "{self.move.name}" cannot begin',
                details=details,
                hint=f"`segue move check {self.move.name}` looks again",
            )
        for finding in found:
            self._note(f"{finding.what}: {finding.found}")

    def follow(self, *, once: bool, stop: Callable[[], bool]) -> int:
        """Carry over what is written to tables of another shape; return how many keys. Raises UsageError for others."""
        return reshaping.of(self.mover).follow(once=once, patience=self._patience, note=self._note, stop=stop)

    def look(self) -> MoveStanding:
        """Say how it stands."""
        return self.mover.look()

    def verify(self, spec: VerifySpec, *, way_back: bool = False) -> list[TableVerdict]:
        """Compare the tables of both sides, the open one first; of another shape, what the source's rows become.

        `way_back`: what the target's rows become in the source. Raises UsageError where the tables are the same.
        """
        with self._noted("verified") as detail:
            if self.move.shape is not None:
                found = reshaping.of(self.mover).verify(spec, self._note, way_back=way_back)
            elif way_back:
                raise UsageError("the tables are the same on both sides", hint="leave out --way-back")
            else:
                found = self._compared(changed(spec, tables=tuple((name, name) for name in self.move.tables)))
            rows = {one.name: len(one.differences) + one.more for one in found}
            detail.update(way_back=way_back, rows=sum(one.rows[0] for one in found), differing=rows)
        return found

    def _compared(self, spec: VerifySpec) -> list[TableVerdict]:
        urls = _urls(self._store, self._settings, self.move)
        a, b = reversed(urls) if self.look().open == "target" else urls
        verifier = self._database(a).verifier(a, b, spec.jobs)
        try:
            return list(verifier.verdicts(spec, self._note))
        finally:
            verifier.close()

    def turn(self, to: str, *, budget: float, margin: int, finish: bool = True) -> MoveSwitched | None:
        """Open the side `to`; None when that was so already, or is so by finishing a switch that was cut off.

        With `finish` False such a switch is undone instead, and nothing else is done.
        """
        before = self.mover.look()
        if before.open is None or before.open == to or not finish:
            # Also where the commits went through and the process died: what comes after them may be missing.
            with self._noted("recovered") as detail:
                detail["open"] = self.mover.recover(finish=finish, note=self._note)
            self._route(detail["open"])
            if not finish or detail["open"] == to:
                return None
        with self._noted("switched" if to == "target" else "reversed") as detail:
            done = self.mover.turn(to, budget=budget, margin=margin, patience=self._patience, note=self._note)
            detail.update(asdict(done))
        self._route(to)
        return done

    def complete(self) -> None:
        """End it with the target in use; there is no way back afterwards."""
        with self._noted("completed"):
            self.mover.complete(self._patience, self._note)

    def cancel(self) -> None:
        """Give it up with the source in use."""
        with self._noted("cancelled"):
            self.mover.cancel(self._patience, self._note)
            if not self.move.read_only:
                self._router().forget()

    def _route(self, to: str) -> None:
        """Tell the application's routing, if it is kept; the sides are open and closed by now, whatever comes of it."""
        try:
            self._router().point(to)
        except SegueError as error:
            self._note(f"the routing kept in {self.move.source} could not be changed, do this again: {error.message}")

    def _router(self) -> Router:
        from segue.services import routing

        return routing.router(self._store, self._settings, self.move, self._database)

    @contextmanager
    def _noted(self, action: str) -> Iterator[dict[str, Any]]:
        """Write to the ledger what was done; what was tried in vain too, with why."""
        detail: dict[str, Any] = {"source": self.move.source, "target": self.move.target}
        try:
            yield detail
        except BaseException as error:
            words = getattr(error, "message", type(error).__name__)
            _record(self._store, self._settings, self.move.name, f"not {action}", {**detail, "error": words})
            raise
        _record(self._store, self._settings, self.move.name, action, detail)


def _advice(finding: Finding) -> list[str]:
    return [f"  do: {finding.do}"] if finding.do else []


def _urls(store: Store, settings: Settings, move: Move) -> tuple[str, str]:
    from segue.services import environments

    with store.session() as session:
        _, source = environments.resolve(session, settings, move.source)
        _, target = environments.resolve(session, settings, move.target)
    return source, target


def mover(store: Store, settings: Settings, move: Move, database: Callable[[str], Moving]) -> Mover:
    """Take up what moves it; raises NotFound for an environment that is not known."""
    source, target = _urls(store, settings, move)
    if move.read_only:
        return database(source).mirror(move.name, source, target, move.source)
    if move.shape is not None:
        return database(source).reshaper(move.name, source, target, move.shape)
    return database(source).mover(move.name, source, target)


def _record(store: Store, settings: Settings, name: str, action: str, detail: dict[str, Any]) -> None:
    from segue.store import ledger

    with store.session() as session:
        ledger.append(session, actor=settings.user, action=action, subject=SUBJECT, subject_id=name, detail=detail)
