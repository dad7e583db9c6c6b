"""Two databases compared table by table, and the second one's rows made as the first one's where that is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue.databases.postgresql.errors import explain
from segue.databases.postgresql.passing import pass_through
from segue.databases.postgresql.verifying import tables
from segue.databases.postgresql.verifying.comparing import Comparison
from segue.databases.postgresql.verifying.sessions import Sessions
from segue.errors import Blocked, InvalidInput, TargetError
from segue.model.verifying import EXTRA, TableVerdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from segue.databases.postgresql.verifying.tables import Match
    from segue.model.verifying import VerifySpec

#: Rows that are repaired in one transaction.
REPAIRED_ROWS = 1000
_STAGED = sql.Identifier("segue_repair")


class PostgresVerifier:
    """See `segue.ports.verifying.Verifier`."""

    def __init__(self, a: str, b: str, jobs: int) -> None:
        """Open a session on each; raises what keeps it from being opened."""
        self._a = Sessions(a, jobs)
        try:
            self._b = Sessions(b, jobs)
        except BaseException:
            self._a.close()
            raise
        self._done: dict[str, tuple[Match, Comparison]] = {}

    def verdicts(self, spec: VerifySpec, note: Callable[[str], None]) -> Iterator[TableVerdict]:
        """Compare table by table."""
        pairs, verdicts = self._pairs(spec)
        yield from verdicts
        matches = [self._match(pair, spec) for pair in pairs]
        for match in matches:
            note(f"comparing {match.sides[0].said}")
            comparison = Comparison(self._a, self._b, match, spec)
            self._done[match.sides[0].said] = (match, comparison)
            yield comparison.verdict()

    def close(self) -> None:
        """End the sessions."""
        self._a.close()
        self._b.close()

    def _pairs(self, spec: VerifySpec) -> tuple[list[tuple[str, str]], list[TableVerdict]]:
        """Return the tables to compare, and a verdict for each that one side alone has."""
        if spec.tables:
            return list(spec.tables), []
        mine, theirs = ([str(row[0]) for row in side.now(tables.ALL)] for side in (self._a, self._b))
        if not set(mine) & set(theirs):
            raise InvalidInput(
                f"{self._a.where} and {self._b.where} have no table of the same name",
                hint="name pairs: --table public.users=crm.people",
            )
        alone = [
            TableVerdict(name, name, more=1, note=f"only {side.where} has it")
            for names, others, side in ((mine, theirs, self._a), (theirs, mine, self._b))
            for name in names
            if name not in others
        ]
        return [(name, name) for name in mine if name in theirs], alone

    def _match(self, pair: tuple[str, str], spec: VerifySpec) -> Match:
        a, b = self._a.first, self._b.first
        try:
            sides = tables.find(a, pair[0], self._a.where), tables.find(b, pair[1], self._b.where)
            found = tables.match(a, b, sides, spec.columns)
            for connection, side in zip((a, b), sides, strict=True):
                self._check(connection, side, spec)
        except psycopg.Error as error:
            raise explain(error, self._a.where if a.closed else self._b.where) from error
        return found

    def _check(self, connection: Any, side: tables.Side, spec: VerifySpec) -> None:
        """Let the server plan a look at a table, so that a bad filter or a missing right is told at once."""
        where = self._a.where if connection is self._a.first else self._b.where
        query = sql.SQL("explain select from {} as r where true{}").format(
            side.identifier, sql.SQL(" and (\n{}\n)").format(sql.SQL(spec.where)) if spec.where else sql.SQL("")
        )
        try:
            connection.execute(query)
        except psycopg.Error as error:
            if connection.closed or error.sqlstate == "42501":
                raise explain(error, where) from error
            raise InvalidInput(
                f'"{side.said}" in {where} cannot be asked for that: {error.diag.message_primary}',
                details=[spec.where] if spec.where else [],
                hint="`where` is SQL that both sides understand",
            ) from error

    # -- repair

    def repair(self, found: TableVerdict) -> int:
        """Make the second side's rows that differ as the first one's."""
        if found.name not in self._done or not found.differences:
            return 0
        match, comparison = self._done[found.name]
        if found.more:
            raise Blocked(
                f'more rows of "{found.name}" differ than are listed, so it is not repaired by rows',
                hint="copy it anew, or compare a part of it with --where",
            )
        done = 0
        for start in range(0, len(found.differences), REPAIRED_ROWS):
            part = found.differences[start : start + REPAIRED_ROWS]
            extra = [one.key for one in part if one.kind == EXTRA]
            wanted = [one.key for one in part if one.kind != EXTRA]
            done += self._write(match, comparison, extra, wanted)
        return done

    def _write(
        self, match: Match, comparison: Comparison, extra: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]
    ) -> int:
        a, b = self._a.first, self._b.first
        target = match.sides[1].identifier
        keys = match.key.names if match.key else ()
        columns = [column.name for column in match.columns if not column.generated]
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        same = sql.SQL(" and ").join(sql.SQL("r.{0} = s.{0}").format(sql.Identifier(name)) for name in keys)
        sets = sql.SQL(", ").join(
            sql.SQL("{0} = s.{0}").format(sql.Identifier(name)) for name in columns if name not in keys
        )
        changed = 0
        try:
            with b.transaction():
                b.execute("set constraints all deferred")
                if extra:
                    query = sql.SQL("delete from {} as r where {}").format(target, comparison.among(extra))
                    changed += b.execute(query).rowcount
                if wanted:
                    b.execute(
                        sql.SQL("create temp table {} on commit drop as select {} from {} where false").format(
                            _STAGED, names, target
                        )
                    )
                    form = sql.SQL("(format text)")
                    read = sql.SQL(", ").join(sql.Identifier("r", name) for name in columns)
                    pass_through(
                        a,
                        sql.SQL("copy (select {} from {} as r where {}) to stdout {}").format(
                            read, match.sides[0].identifier, comparison.among(wanted), form
                        ),
                        b,
                        sql.SQL("copy {} ({}) from stdin {}").format(_STAGED, names, form),
                    )
                    if sets.as_string(b):
                        update = sql.SQL("update {} as r set {} from {} as s where {}")
                        changed += b.execute(update.format(target, sets, _STAGED, same)).rowcount
                    insert = sql.SQL(
                        "insert into {} ({}) overriding system value select {} from {} as s where not exists "
                        "(select from {} as r where {})"
                    )
                    changed += b.execute(insert.format(target, names, names, _STAGED, target, same)).rowcount
        except psycopg.Error as error:
            if b.closed or a.closed:
                raise explain(error, self._a.where if a.closed else self._b.where) from error
            raise TargetError(
                f'rows of "{match.sides[1].said}" could not be repaired: {error.diag.message_primary} '
                f"({error.sqlstate})",
                details=[line for line in (error.diag.message_detail,) if line],
                hint="nothing of this piece was changed; a side that is closed by a move is written by nobody",
            ) from error
        return changed
