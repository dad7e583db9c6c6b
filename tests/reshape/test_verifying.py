"""Two shapes are compared row by row, in use too; what differs is named, and what would not come back."""

from __future__ import annotations

from collections.abc import Callable

from fix_targets import run_sql, until, value
from fix_unlike import Reshaped, people_traffic

from segue.model.verifying import TableVerdict, VerifySpec

Make = Callable[..., Reshaped]


def verify(move: Reshaped, *, way_back: bool = False, settle: float = 1.0) -> dict[str, TableVerdict]:
    spec = VerifySpec(settle=settle, range_rows=50)
    found = move.mover.verify(spec, move.notes.append, way_back=way_back)
    return {one.name: one for one in found} if move.open == "target" else {one.other: one for one in found}


def spoil(move: Reshaped, table: str, *statements: str) -> None:
    """Write past the fence of the closed side, as only its owner could."""
    run_sql(
        move.target,
        f"ALTER TABLE {table} DISABLE TRIGGER USER",
        *statements,
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER segue_move_shop",
    )


def test_rows_that_differ_are_named_by_the_targets_key(reshape: Make) -> None:
    move = reshape()
    move.start()
    found = verify(move)
    assert {name: (one.equal, one.rows) for name, one in found.items()} == {
        "public.customers": (True, (300, 300)),
        "public.profiles": (True, (300, 300)),
        "public.memos": (True, (60, 60)),
    }
    spoil(move, "customers", "UPDATE customers SET born = born + 1 WHERE customer_id = 7",
          "DELETE FROM customers WHERE customer_id = 160")  # fmt: skip
    spoil(move, "profiles", "UPDATE profiles SET mood = 'loud' WHERE id = '3'")
    spoil(move, "memos", "INSERT INTO memos VALUES (1, 777, 'too many')")
    run_sql(move.source, "UPDATE countries SET code = 'XX' WHERE id = 3")
    found = verify(move)
    assert not any(one.equal for one in found.values())
    told = [(one.key, one.kind, one.columns) for one in found["public.customers"].differences]
    assert (("7",), "different", ("born", "country_code")) in told
    assert (("160",), "missing", ()) in told
    assert all(columns in (("country_code",), ("born", "country_code"), ()) for _, _, columns in told)
    assert [(one.key, one.columns) for one in found["public.profiles"].differences] == [(("3",), ("mood",))]
    assert [(one.key, one.kind) for one in found["public.memos"].differences] == [(("777", "1"), "extra")]


def test_several_sources_of_one_table_are_compared_each_with_its_rows(reshape: Make) -> None:
    move = reshape(
        "CREATE TABLE p (id int PRIMARY KEY, x numeric); CREATE TABLE f (id int PRIMARY KEY, x numeric);"
        "INSERT INTO p SELECT g, g / 3.0 FROM generate_series(1, 120) g; INSERT INTO f VALUES (1, 1), (2, 2)",
        "CREATE TABLE t (kind char(4), id bigint, x numeric(9, 2), PRIMARY KEY (kind, id))",
        "tables:\n  t:\n    - {from: p, columns: {kind: \"'p'\", x: 'round(s.x, 2)'}, reverse: {x: t.x}}\n"
        "    - {from: f, columns: {kind: \"'f'\", x: 's.x::numeric(9, 2)'}, reverse: {x: t.x}}\n",
    )
    move.start()
    assert [(one.name, one.equal, one.rows) for one in move.mover.verify(VerifySpec(range_rows=9), print)] == [
        ("public.p", True, (120, 120)),
        ("public.f", True, (2, 2)),
    ]
    spoil(move, "t", "UPDATE t SET x = 5 WHERE kind = 'f' AND id = 2")
    (p, f) = move.mover.verify(VerifySpec(range_rows=9), print)
    assert p.equal
    assert [(one.key, one.columns) for one in f.differences] == [(("2",), ("x",))]
    # The rounded digits are not in the target, so a row that comes back has lost them.
    (p, f) = move.mover.verify(VerifySpec(), print, way_back=True)
    assert len(p.differences) == 80 + 40  # 1.00 is not 1, and 0.33 no third
    assert len(f.differences) == 2


def test_rows_under_way_are_no_difference_whichever_side_is_open(reshape: Make) -> None:
    move = reshape()
    with people_traffic(move, 4) as seen, move.following():
        move.start()
        for to in ("target", "source", ""):
            mark = seen.acknowledged
            until(lambda mark=mark: seen.acknowledged > mark + 20)
            found = verify(move, settle=8)
            assert [one for one in found.values() if not one.equal] == []
            if to:
                move.turn(to)
                seen.live = to
    assert seen.errors == []
    key = value(move.source, "INSERT INTO users (first, last) VALUES ('Jean Luc', 'P') RETURNING id")
    move.level()
    assert all(one.equal for one in verify(move).values())
    lost = [one for table in move.mover.verify(VerifySpec(), print, way_back=True) for one in table.differences]
    assert ((str(key),), "different", ("first", "last")) in [(one.key, one.kind, one.columns) for one in lost]
