"""The messages of a replication stream, read from their bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.databases.postgresql.online.pgoutput import (
    Captured,
    Decoder,
    IdentityChanged,
    Unreadable,
    copy_line,
    widen,
)

ITEMS, OTHERS = 16385, 16390
#: Out of line and unchanged.
SAME = object()


def text(word: str) -> bytes:
    return word.encode() + b"\0"


def row(*values: object) -> bytes:
    found = struct.pack(">h", len(values))
    for value in values:
        if value is None:
            found += b"n"
        elif value is SAME:
            found += b"u"
        else:
            raw = str(value).encode()
            found += b"t" + struct.pack(">i", len(raw)) + raw
    return found


def begin(xid: int) -> bytes:
    return b"B" + struct.pack(">QQI", 900, 0, xid)


def commit(end: int) -> bytes:
    return b"C" + struct.pack(">BQQQ", 0, end - 8, end, 0)


def relation(oid: int, name: str, *columns: str, key: tuple[str, ...] = ("id",), identity: bytes = b"d") -> bytes:
    found = b"R" + struct.pack(">I", oid) + text("public") + text(name) + identity + struct.pack(">h", len(columns))
    return found + b"".join(bytes([name in key]) + text(name) + struct.pack(">Ii", 23, -1) for name in columns)


def insert(oid: int, *values: object) -> bytes:
    return b"I" + struct.pack(">I", oid) + b"N" + row(*values)


def update(oid: int, *values: object, old: tuple[object, ...] | None = None, kind: bytes = b"K") -> bytes:
    before = b"" if old is None else kind + row(*old)
    return b"U" + struct.pack(">I", oid) + before + b"N" + row(*values)


def delete(oid: int, *values: object) -> bytes:
    return b"D" + struct.pack(">I", oid) + b"K" + row(*values)


def truncate(*oids: int) -> bytes:
    return b"T" + struct.pack(f">iB{len(oids)}I", len(oids), 0, *oids)


def message(prefix: str, content: str) -> bytes:
    raw = content.encode()
    return b"M" + struct.pack(">BQ", 0, 77) + text(prefix) + struct.pack(">i", len(raw)) + raw


@pytest.fixture
def decoder() -> Decoder:
    """Give a decoder that knows two tables: items by (id), others by (b, a)."""
    known = {ITEMS: Captured(0, ("id",)), OTHERS: Captured(1, ("b", "a"))}
    return Decoder(lambda oid, name: known[oid], prefix="segue_x")


def fed(decoder: Decoder, *messages: bytes) -> list[tuple[int, int, tuple[bytes, ...] | None]]:
    for one in messages:
        decoder.feed(one)
    return decoder.entries


def test_inserted_updated_and_deleted_rows_are_known_by_their_keys(decoder: Decoder) -> None:
    entries = fed(
        decoder,
        begin(7),
        relation(ITEMS, "items", "n", "id"),
        insert(ITEMS, None, 1),
        update(ITEMS, 5, 2),
        delete(ITEMS, None, 3),
        commit(1000),
    )
    assert entries == [(0, 7, (b"1",)), (0, 7, (b"2",)), (0, 7, (b"3",))]
    assert decoder.safe == 1000
    assert not decoder.open


def test_a_changed_key_counts_as_both(decoder: Decoder) -> None:
    entries = fed(decoder, begin(7), relation(ITEMS, "items", "id"), update(ITEMS, 9, old=(4,)))
    assert entries == [(0, 7, (b"4",)), (0, 7, (b"9",))]


def test_a_composite_key_comes_in_the_order_in_which_it_is_walked(decoder: Decoder) -> None:
    described = relation(OTHERS, "others", "a", "x", "b", key=("a", "b"))
    assert fed(decoder, begin(7), described, insert(OTHERS, 1, None, 2)) == [(1, 7, (b"2", b"1"))]


def test_a_long_key_that_stays_is_taken_from_the_old_row(decoder: Decoder) -> None:
    described = relation(OTHERS, "others", "a", "b", key=("a", "b"))
    entries = fed(decoder, begin(7), described, update(OTHERS, SAME, 2, old=("long", 1)))
    assert entries == [(1, 7, (b"1", b"long")), (1, 7, (b"2", b"long"))]


def test_an_emptied_table_has_an_entry_without_a_key(decoder: Decoder) -> None:
    described = relation(OTHERS, "others", "a", "b", key=("a", "b"))
    entries = fed(decoder, begin(7), relation(ITEMS, "items", "id"), described, truncate(ITEMS, OTHERS))
    assert entries == [(0, 7, None), (1, 7, None)]


def test_marks_are_kept_and_those_of_others_are_not(decoder: Decoder) -> None:
    fed(decoder, message("segue_x", "here"), begin(7), message("segue_y", "there"), message("segue_x", "é"), commit(9))
    assert decoder.take() == ([], ["here", "é"])
    assert decoder.take() == ([], [])


def test_origins_and_types_say_nothing(decoder: Decoder) -> None:
    fed(decoder, begin(7), b"O" + struct.pack(">Q", 1) + text("sub"), b"Y" + struct.pack(">I", 9) + text("a") * 2)
    assert (decoder.entries, decoder.open, decoder.safe) == ([], True, 0)


def test_an_entry_that_is_gathered_twice_is_taken_once(decoder: Decoder) -> None:
    fed(decoder, begin(7), relation(ITEMS, "items", "id"), insert(ITEMS, 1), update(ITEMS, 1), commit(9))
    assert decoder.take() == ([(0, 7, (b"1",))], [])


@pytest.mark.parametrize("kind", list("SEcAbPKrpXw"))
def test_what_was_not_asked_for_is_an_error(decoder: Decoder, kind: str) -> None:
    with pytest.raises(Unreadable, match="not asked for"):
        decoder.feed(kind.encode() + b"\0" * 40)


@pytest.mark.parametrize(
    "described",
    [
        relation(ITEMS, "items", "id", "n", identity=b"f", key=("id", "n")),
        relation(ITEMS, "items", "id", "n", identity=b"i", key=("n",)),
        relation(ITEMS, "items", "id", "n", identity=b"n", key=()),
        relation(ITEMS, "items", "id", "n", key=("id", "n")),
        relation(ITEMS, "items", "n", key=()),
    ],
    ids=["full", "index", "nothing", "wider", "absent"],
)
def test_another_identity_than_the_key_stops_it(decoder: Decoder, described: bytes) -> None:
    decoder.feed(begin(7))
    with pytest.raises(IdentityChanged, match=r"public\.items"):
        decoder.feed(described)


@pytest.mark.parametrize(
    "odd",
    [
        insert(OTHERS, 1),
        update(ITEMS, 1, old=(1,), kind=b"O"),
        insert(ITEMS, None),
        insert(ITEMS, SAME),
        b"D" + struct.pack(">I", ITEMS) + b"O" + row(1),
        b"I" + struct.pack(">I", ITEMS) + b"N" + struct.pack(">h", 1) + b"b" + struct.pack(">i", 1) + b"1",
        truncate(OTHERS),
        begin(8),
    ],
    ids=["unknown", "old-row", "null", "unchanged", "deleted-row", "binary", "unknown-truncate", "nested"],
)
def test_a_change_that_cannot_be_told_stops_it(decoder: Decoder, odd: bytes) -> None:
    fed(decoder, begin(7), relation(ITEMS, "items", "id"))
    with pytest.raises(Unreadable):
        decoder.feed(odd)


def test_a_change_outside_of_a_transaction_stops_it(decoder: Decoder) -> None:
    fed(decoder, begin(7), relation(ITEMS, "items", "id"), commit(9))
    with pytest.raises(Unreadable, match="outside"):
        decoder.feed(insert(ITEMS, 1))


@given(st.sampled_from([insert(ITEMS, "abc"), update(ITEMS, 1, old=(2,)), truncate(ITEMS), begin(9)]), st.data())
def test_a_message_that_is_cut_short_is_never_taken_for_less(whole: bytes, data: st.DataObject) -> None:
    decoder = Decoder(lambda oid, name: Captured(0, ("id",)), prefix="segue_x")
    if whole[:1] != b"B":
        fed(decoder, begin(7), relation(ITEMS, "items", "id"))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(Unreadable):
        decoder.feed(whole[:cut])


@given(st.integers(2**32, 2**62), st.integers(-(2**31), 2**31 - 1))
def test_a_transaction_id_is_widened_to_the_nearest(known: int, distance: int) -> None:
    assert widen((known + distance) & 0xFFFFFFFF, known) == known + distance


def test_values_are_written_as_copy_reads_them() -> None:
    assert copy_line(7, (b"a\tb\\c\nd\re", b"\\N"), 2) == b"7\ta\\tb\\\\c\\nd\\re\t\\\\N\n"
    assert copy_line(2**40, None, 2) == b"1099511627776\t\\N\t\\N\n"
