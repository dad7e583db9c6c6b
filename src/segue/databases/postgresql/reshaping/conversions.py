"""Which values a cast would change without a word, and which keys of the target have a place in the source."""

from __future__ import annotations

import re

_BITS = {"smallint": 15, "integer": 31, "bigint": 63}
_FLOATS = frozenset({"real", "double precision"})
TEXTS = frozenset({"text", "character varying"})
_ORDERED = frozenset({"numeric", "uuid", "date", "boolean", "bytea", "interval", "inet", "cidr"}) | {
    "timestamp without time zone",
    "timestamp with time zone",
    "time without time zone",
}
_STAMPS = frozenset({"timestamp without time zone", "timestamp with time zone"})
_ROUNDED, _CUT, _DAY, _ZONE = (
    "digits would be rounded",
    "long texts would be cut",
    "the time of day would be left out",
    "times would be read as UTC",
)


def changed(origin: tuple[str, str], into: tuple[str, str]) -> str | None:
    """Return what a cast does to values without an error; None where each comes back as it was, or fails.

    Types as (base, type): the second with its length or precision.
    """
    (base, type_), (other, wanted) = origin, into
    if other in {"name", '"char"'} and base != other:
        return _CUT
    if _number(base) and _number(other):
        return _ROUNDED if _rounds(base, type_, other, wanted) else None
    if base in _STAMPS and other == "date":
        return _DAY
    if other in _STAMPS and base in {*_STAMPS, "date"}:
        if base != other and "timestamp with time zone" in (base, other):
            return _ZONE
        return _ROUNDED if base in _STAMPS and _places(wanted, 6) < _places(type_, 6) else None
    return None


def _number(base: str) -> bool:
    return base in _BITS or base in _FLOATS or base == "numeric"


def _rounds(base: str, type_: str, other: str, wanted: str) -> bool:
    if other in _BITS:
        return base not in _BITS
    if other == "real":
        return base not in {"real", "smallint"}
    if other == "double precision":
        return base in {"bigint", "numeric"}
    if base in _FLOATS:
        return True
    scale = _scale(wanted)
    return scale is not None and (base == "numeric" or scale < 0) and ((_scale(type_) or 0) > scale or type_ == base)


def _scale(type_: str) -> int | None:
    found = re.fullmatch(r"numeric\(\d+,(-?\d+)\)", type_)
    return int(found[1]) if found else None


def _places(type_: str, all_: int) -> int:
    found = re.search(r"\((\d+)\)", type_)
    return int(found[1]) if found else all_


def one_to_one(base: str, other: str, wanted: str) -> bool:
    """Tell whether no two keys become the same one by a cast; one that does not fit fails."""
    if base in _BITS:
        return other in _BITS or other in TEXTS or wanted == "numeric"
    return base == other or ((base in TEXTS or base == "uuid") and other in TEXTS)


def walked(base: str, other: str) -> bool:
    """Tell whether a key of one type and its copy of another one stand in the same order on every server."""
    return (base in _BITS and other in _BITS) or (base == other and base in _ORDERED)


def returns(value: str, base: str, other: str) -> str | None:
    """Return the condition on which a key of the target, of type `other`, is one that the source could have had.

    Without it `007` would be taken for the 7 that it is no copy of. None where every key is.
    """
    if base in _BITS:
        fits = f"between {-(2 ** _BITS[base])} and {2 ** _BITS[base] - 1}"
        if other in _BITS:
            return f"{value} {fits}" if _BITS[other] > _BITS[base] else None
        if other == "numeric":
            return f"{value} = pg_catalog.trunc({value}) and {value} {fits}"
        # A case, since the server may ask in any order.
        pattern = "^(0|-?[1-9][0-9]{0,18})$"
        return (
            f"case when {value}::pg_catalog.text collate \"C\" ~ '{pattern}' "
            f"then {value}::pg_catalog.numeric {fits} else false end"
        )
    if base == "uuid" and other in TEXTS:
        return f"{value}::pg_catalog.text collate \"C\" ~ '^[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}$'"
    return None
