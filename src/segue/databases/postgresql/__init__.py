"""PostgreSQL as a target: parsing, impact, sessions, inspection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from segue.model.checks import Checkup
    from segue.model.cleaning import Cleaned
    from segue.model.facts import TargetFacts
    from segue.model.impact import Statement
    from segue.model.online import Alteration, ChangeSpec, Conflict, Kept, Retained
    from segue.model.probe import Probe
    from segue.model.shapes import Shape
    from segue.model.splits import CrossingKey, Invariant, Split, Survey
    from segue.ports import Gauge, Target
    from segue.ports.moving import Mirror, Mover, Reshaper, Router
    from segue.ports.outbox import Outbox, Relay
    from segue.ports.verifying import Verifier


class PostgreSQL:
    """See `segue.ports.Database`. Modules are loaded when used: a command that only lists plans needs no driver."""

    name = "postgresql"

    def statements(self, sql: str) -> list[Statement]:
        """Parse SQL with the server's own grammar and predict what each statement does."""
        from segue.databases.postgresql.parse import statements

        return statements(sql)

    def alterations(self, sql: str) -> list[Alteration]:
        """Name what the parts of an ALTER TABLE do."""
        from segue.databases.postgresql.alterations import alterations

        return alterations(sql)

    def alter_tables(self, sql: str) -> list[tuple[str, str]]:
        """Split ALTER TABLE statements into the table and what comes after it."""
        from segue.databases.postgresql.alterations import alter_tables

        return alter_tables(sql)

    def online_conflicts(
        self, url: str, *, execution: str, step: str, limit: int = 100
    ) -> tuple[int, list[tuple[Conflict, list[str]]]]:
        """Look at the rows that a step's online change refuses."""
        from segue.databases.postgresql.online.offering import conflicts_of

        return conflicts_of(url, execution, step, limit)

    def online_waiting(self, url: str, *, execution: str, step: str, most: int = 1_000_000) -> int | None:
        """Count what waits for the old tables of a reversible change."""
        from segue.databases.postgresql.online.upkeep import waiting

        return waiting(url, execution, step, most)

    def online_keep(
        self, url: str, *, execution: str, step: str, seconds: float, rest: Callable[[float], bool]
    ) -> Kept | None:
        """Bring what was written since the swap to the old tables of a reversible change."""
        from segue.databases.postgresql.online.upkeep import keep

        return keep(url, execution, step, seconds=seconds, rest=rest)

    def online_retained(self, url: str, *, execution: str, step: str, limit: int) -> Retained | None:
        """Look at what the log keeps back for a change that nobody drives, and give that up beyond the limit."""
        from segue.databases.postgresql.online.retaining import retained

        return retained(url, execution, step, limit)

    def mover(self, move: str, source: str, target: str) -> Mover:
        """Take up a move of tables from one database to another."""
        from segue.databases.postgresql.moving.mover import PostgresMover

        return PostgresMover(move, source, target)

    def reshaper(self, move: str, source: str, target: str, shape: Shape) -> Reshaper:
        """Take up a move of tables to others of another shape."""
        from segue.databases.postgresql.reshaping.mover import ReshapingMover

        return ReshapingMover(move, source, target, shape)

    def mirror(self, move: str, source: str, target: str, home: str) -> Mirror:
        """Take up read-only copies of tables."""
        from segue.databases.postgresql.moving.mirror import PostgresMirror

        return PostgresMirror(move, source, target, home)

    def router(self, move: str, source: str, target: str) -> Router:
        """Take up what an application is told of a move."""
        from segue.databases.postgresql.moving.routing import PostgresRouter

        return PostgresRouter(move, source, target)

    def outbox(self, url: str) -> Outbox:
        """Take up the outbox of a database."""
        from segue.databases.postgresql.outbox.halves import PostgresOutbox

        return PostgresOutbox(url)

    def relay(self, source: str, target: str, note: Callable[[str], None]) -> Relay:
        """Take up what goes from one database's outbox to another database."""
        from segue.databases.postgresql.outbox.relay import PostgresRelay

        return PostgresRelay(source, target, note)

    def verifier(self, a: str, b: str, jobs: int) -> Verifier:
        """Take up two databases to be compared."""
        from segue.databases.postgresql.verifying.verifier import PostgresVerifier

        return PostgresVerifier(a, b, jobs)

    def survey(self, url: str, split: Split) -> Survey:
        """Find what a split cuts."""
        from segue.databases.postgresql.splitting.survey import survey

        return survey(url, split)

    def invariant(self, child: str, parent: str, key: CrossingKey) -> Invariant:
        """Look whether a foreign key that was cut still holds."""
        from segue.databases.postgresql.splitting.invariants import probe

        return probe(child, parent, key)

    def probe(self, url: str) -> Probe:
        """Look at a database."""
        from segue.databases.postgresql.probes import probe

        return probe(url)

    def identity(self, url: str) -> dict[str, Any]:
        """Tell this database from every other one."""
        from segue.databases.postgresql.checking import identity

        return identity(url)

    def check(self, url: str, *, schema: str) -> Checkup:
        """Look at everything that a migration could trip over."""
        from segue.databases.postgresql.checking import check

        return check(url, schema=schema)

    def assess(
        self,
        url: str,
        *,
        schema: str,
        steps: Sequence[Sequence[Statement]],
        changes: Mapping[int, ChangeSpec] | None = None,
    ) -> TargetFacts:
        """Say what the statements of a plan meet on this target."""
        from segue.databases.postgresql.assessing import assess

        return assess(url, schema=schema, steps=steps, changes=changes or {})

    def open_target(self, url: str, *, execution: str, holder: str, schema: str) -> Target:
        """Take the lease on a target."""
        from segue.databases.postgresql.target import PostgresTarget

        return PostgresTarget(url, execution=execution, holder=holder, schema=schema)

    def join_target(self, url: str, *, execution: str, holder: str, fence: int, schema: str) -> Target:
        """Open sessions under a lease that another process holds."""
        from segue.databases.postgresql.target import PostgresTarget

        return PostgresTarget.join(url, execution=execution, holder=holder, fence=fence, schema=schema)

    def gauge(self, url: str) -> Gauge:
        """Look at a database beside whoever works there."""
        from segue.databases.postgresql.signals import Gauge

        # Not as sessions of a lease are called: whoever takes that ends those.
        return Gauge(url, application="segue-look", schema="public")

    def clean(self, url: str, *, holder: str, export: Callable[[list[dict[str, Any]]], None]) -> Cleaned:
        """Take Segue's schema out of a database."""
        from segue.databases.postgresql.cleaning import clean

        return clean(url, holder=holder, export=export)


DATABASE = PostgreSQL()
