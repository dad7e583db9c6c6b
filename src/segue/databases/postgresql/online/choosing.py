"""Chooses how tables are changed online, says why, and looks beforehand for whatever stands in the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from segue.databases.postgresql.online import drawing, fitting, preflight, reading
from segue.databases.postgresql.online.native import native
from segue.errors import StepFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.databases.postgresql.online.blueprint import Member
    from segue.databases.postgresql.online.site import Connection, Site
    from segue.model.online import ChangeSpec

NATIVE = "native-online"
SHADOW = "shadow-table"
GHOST = "ghost"
MIRROR = "pt-online-schema-change"


@dataclass(frozen=True, slots=True)
class Choice:
    """How a change is done, and why; for native-online its statements, with what takes back each and what cannot be."""

    strategy: str
    reasons: list[str]
    native: tuple[str, ...] = ()
    undo: tuple[tuple[str, ...], ...] = ()
    lost: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    rules: list[fitting.Rule] = field(default_factory=list)


def choose(site: Site, spec: ChangeSpec) -> Choice:
    """Return how a change is done. Raises StepFailed where what is asked for cannot be."""
    choice = look(site.look, spec, site.schema)
    if choice.native:
        for change in spec.tables:
            drawing.rehearse(site.work, change)
        refused = fitting.misfits(site.look, choice.rules)
        if refused and spec.strategy == NATIVE:
            raise StepFailed(
                "there are rows that do not fit, so that the server would refuse the change in place",
                details=refused,
                hint='mend them, or leave the strategy out: "shadow-table" takes all others and lists these',
            )
        if refused:
            return Choice(SHADOW, [f"{line}, so that it cannot be done in place" for line in refused])
    return choice


def look(connection: Connection, spec: ChangeSpec, schema: str) -> Choice:
    """Return how a change would be done, by looking alone. Raises StepFailed where what is asked for cannot be."""
    if spec.strategy == MIRROR:
        raise StepFailed(
            'the strategy "pt-online-schema-change" is not offered on PostgreSQL: its triggers write every row twice '
            "in the application's own transactions, which made them 1.6 to 2.65 times slower and let writers wait for "
            "the copy",
            hint='"shadow-table" logs only the keys that are touched; leave the strategy out, and it is chosen',
        )
    if spec.strategy in (SHADOW, GHOST):
        return Choice(spec.strategy, [f"{spec.strategy} was asked for"])
    reasons: list[str] = []
    statements: list[str] = []
    undo: list[tuple[str, ...]] = []
    lost: list[str] = []
    groups: list[int] = []
    rules: list[fitting.Rule] = []
    for change in spec.tables:
        if change.columns:
            reasons.append(f"another order of columns of {change.table} means another table")
        if change.partition_by:
            reasons.append(f"{change.table} becomes partitioned, which means another table")
        found = native(connection, change.table, change.alter, schema)
        reasons += found.reasons
        groups += [len(statements) + group for group in found.groups]
        rules += found.rules
        statements += found.statements
        undo += found.undo
        lost += found.lost
    gone = [what for what in lost if what]
    if gone and spec.reversible:
        # It would take a moment, and what it drops would be gone for good: a shadow keeps it until the retention ends.
        reasons += [f"{what} takes a moment, but could not be taken back" for what in gone]
    if gone and spec.reversible and spec.strategy == NATIVE:
        raise StepFailed(
            "what the server would do in place could not be taken back",
            details=gone,
            hint='leave the strategy out: "shadow-table" keeps what is dropped for the way back; or say that no '
            "way back is wanted (--no-reverse, or `reversible: false`)",
        )
    if not reasons and statements:
        why = ["every command takes a moment, or has a form that lets the application work meanwhile"]
        why += [f"{what} cannot be taken back" for what in gone]
        return Choice(NATIVE, why, tuple(statements), tuple(undo), tuple(lost), tuple(groups), rules)
    if spec.strategy == NATIVE:
        raise StepFailed(
            "PostgreSQL has no online form of this change",
            details=reasons,
            hint='leave the strategy out, or take "shadow-table"',
        )
    return Choice(SHADOW, reasons)


def refusals(site: Site, members: Sequence[Member]) -> list[str]:
    """Return everything that stands in the way of changing these tables, each with what to do about it."""
    tables = [reading.Definition.model_validate(member.definition) for member in members]
    return preflight.standing(site.look, [one.oid for table in tables for one in table.everything()])
