"""Tells which conversions of a key keep rows apart: two keys never become one, and each has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[object, ...]]

#: Types that compare with each other as they are, in one index: a value that the other cannot hold just meets nothing.
WHOLE = ("int2", "int4", "int8")
TEXTS = ("text", "varchar")
_MOMENTS = ("timestamp", "timestamptz")
_SECONDS = (*_MOMENTS, "time", "timetz", "interval")
# Beside those above, as they are written by the server no two values are the same.
_WRITTEN = ("bool", "uuid", "oid", "date", *WHOLE)
_WIDER = {("float4", "float8"), ("date", "timestamp"), ("date", "timestamptz")}
_WIDER |= {(whole, "numeric") for whole in WHOLE} | {(written, text) for written in _WRITTEN for text in TEXTS}

Base = tuple[str, int]


def is_faithful(came: Base, goes: Base) -> bool:
    """Return whether values of a type stay apart as another: by the names of the types in pg_type, and modifiers.

    One that does not fit is refused when its row is written, which is no harm; one that is rounded or cut is.
    """
    (old, _), (new, _) = came, goes
    if (old in WHOLE and new in WHOLE) or (old in TEXTS and new in TEXTS):
        return True
    if old == new:
        return _digits(*goes) >= _digits(*came)
    if {old, new} == set(_MOMENTS):
        return _digits(*goes) >= _digits(*came)
    return (old, new) in _WIDER and _digits(*goes) >= 0


def _digits(name: str, modifier: int) -> float:
    """Return how many digits behind the point a type keeps."""
    if name == "numeric" and modifier >= 4:
        scale = (modifier - 4) & 0x7FF
        return scale - 2048 if scale > 1023 else scale
    if name in _SECONDS:
        return 6 if modifier < 0 else min(6, modifier & 0xFFFF)
    return float("inf")


def is_deterministic(connection: Connection, collation: str | None) -> bool:
    """Return whether values that a collation finds equal are the same; None is the database's own."""
    if collation is None:
        return True
    row = connection.execute(
        "select collisdeterministic from pg_catalog.pg_collation where oid = %s::regcollation", [collation]
    ).fetchone()
    return bool(row and row[0])
