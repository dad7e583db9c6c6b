"""A split of one database into several: surveyed, made into a live move for each domain, and probed afterwards."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from segue.errors import Blocked, InvalidInput
from segue.model.splits import CrossingKey
from segue.planning import splitfile, splitplan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from segue.model.splits import Invariant, Split, Survey
    from segue.ports import Database
    from segue.settings import Settings
    from segue.store import Store

#: The ledger's subject; its id is the split's name.
SUBJECT = "splits"


class Splitter:
    """What a person can ask of a split file."""

    def __init__(self, store: Store, settings: Settings, split: Split, database: Callable[[str], Database]) -> None:
        self.split = split
        self._store = store
        self._settings = settings
        self._database = database

    def survey(self) -> Survey:
        """Find what the split cuts; also checks that every environment of the file is known."""
        for domain in self.split.domains:
            self._url(domain.to)
        url = self._url(self.split.source)
        return self._database(url).survey(url, self.split)

    def create(self) -> list[str]:
        """Create a live move for each domain whose database is not the source itself, and its read-only copies.

        Return the names of all.

        Raises InvalidInput while a table has no home or a name is no table, Blocked where a move exists already.
        """
        from segue.services import moves

        found = self._ready()
        moving = [domain for domain in self.split.domains if domain.to != self.split.source]
        for name in (*(domain.name for domain in moving), *(copy.name for copy in found.copies)):
            if moves.current(self._store, name) is not None:
                raise Blocked(
                    f'the move "{name}" exists already', hint="`segue move status` shows it; nothing was created"
                )
        self._record(found.crossing)
        wanted = [moves.Move(domain.name, self.split.source, domain.to, domain.tables) for domain in moving]
        for copy in found.copies:
            wanted.append(moves.Move(copy.name, self.split.source, copy.to, copy.tables, read_only=True))
        for move in wanted:
            moves.create(self._store, self._settings, move, self._database)
        return [move.name for move in wanted]

    def plan(self) -> dict[str, Any]:
        """Return the document of a plan that carries the split out, and keep the keys that it cuts.

        Raises InvalidInput while a table has no home or a name is no table.
        """
        found = self._ready()
        self._record(found.crossing)
        return splitplan.write(self.split, found)

    def _ready(self) -> Survey:
        found = self.survey()
        if not found.ready:
            wrong = [*found.problems, *(f"{table} is in no domain" for table in found.homeless)]
            raise InvalidInput(
                f'the split "{self.split.name}" cannot begin: {len(wrong)} tables have no home, or are not there',
                details=wrong,
                hint="give every table exactly one home; `segue move survey` shows the whole",
            )
        return found

    def probe(self) -> list[tuple[CrossingKey, Invariant | None]]:
        """Look at each foreign key that was cut, where its tables are now; None where its server still keeps it."""
        places = {domain.name: self._where(domain.name, domain.to) for domain in self.split.domains}
        places["shared"] = self.split.source
        found: list[tuple[CrossingKey, Invariant | None]] = []
        for key in self._keys():
            child, parent = places[key.domain], places[key.to_domain]
            if child == parent:
                found.append((key, None))
                continue
            a, b = self._url(child), self._url(parent)
            found.append((key, self._database(a).invariant(a, b, key)))
        return found

    def _record(self, keys: Iterable[CrossingKey]) -> None:
        """Keep the keys that will be cut: once they are, nothing in the databases tells of them."""
        from segue.store import ledger

        detail = {"source": self.split.source, "keys": [asdict(key) for key in keys]}
        with self._store.session() as session:
            ledger.append(
                session,
                actor=self._settings.user,
                action="created",
                subject=SUBJECT,
                subject_id=self.split.name,
                detail=detail,
            )

    def _keys(self) -> list[CrossingKey]:
        """Return the keys that the split cut when it was created; before that, those that it would cut."""
        from sqlalchemy import select

        from segue.store.tables.ledger import LedgerRow

        with self._store.session() as session:
            row = session.scalars(
                select(LedgerRow)
                .where(LedgerRow.subject == SUBJECT, LedgerRow.subject_id == self.split.name)
                .order_by(LedgerRow.id.desc())
                .limit(1)
            ).first()
            kept = row.detail["keys"] if row is not None else None
        if kept is None:
            return list(self.survey().crossing)
        lists = ("columns", "to_columns", "actions")
        told: list[dict[str, Any]] = [{k: tuple(v) if k in lists else v for k, v in key.items()} for key in kept]
        return [CrossingKey(**key) for key in told]

    def _where(self, domain: str, to: str) -> str:
        """Return the environment that a domain's tables are used in now."""
        from segue.services import moves

        if to == self.split.source:
            return to
        move = moves.current(self._store, domain)
        if move is None:
            return to if moves.completed(self._store, domain) else self.split.source
        url = self._url(move.source)
        standing = self._database(url).mover(move.name, url, self._url(move.target)).look()
        return move.target if standing.open == "target" else move.source

    def _url(self, environment: str) -> str:
        from segue.services import environments

        with self._store.session() as session:
            return environments.resolve(session, self._settings, environment)[1]


def read(file: str) -> Split:
    """Read a split file, or the standard input for "-". Raises InvalidInput."""
    from segue.services import plans

    text, source = plans.read_source(file)
    return splitfile.read(text, source=source)
