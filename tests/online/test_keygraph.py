"""A key that changes its type takes along every column whose foreign key refers to it."""

from __future__ import annotations

import psycopg
import pytest
from fix_online import run_sql, site_of
from fix_targets import Open

from segue.databases.postgresql.online import keygraph, shadow
from segue.errors import StepFailed
from segue.model.online import ChangeSpec, TableChange


def widened(url: str, *changes: TableChange, **options: object) -> dict[str, tuple[str, ...]]:
    with psycopg.connect(url) as connection:
        spec, reasons = keygraph.widen(connection, ChangeSpec(changes, **options))  # type: ignore[arg-type]
    assert len(reasons) >= len(spec.tables) - len(changes)
    return {change.table: change.alter for change in spec.tables}


def test_referring_columns_go_along_over_several_tables(any_database: str) -> None:
    run_sql(
        any_database,
        'CREATE TABLE "Or.ders" (id serial PRIMARY KEY, up int REFERENCES "Or.ders")',
        'CREATE TABLE items (id int PRIMARY KEY REFERENCES "Or.ders", n int NOT NULL, UNIQUE (id, n))',
        "CREATE TABLE parts (k int PRIMARY KEY, i int, n int, FOREIGN KEY (i, n) REFERENCES items (id, n))",
        "CREATE TABLE apart (id int PRIMARY KEY, n int REFERENCES parts)",
        "CREATE TABLE big (id bigint PRIMARY KEY REFERENCES parts)",
    )
    assert widened(any_database, TableChange('"Or.ders"', ("ALTER id TYPE bigint",))) == {
        '"Or.ders"': ('ALTER COLUMN "up" TYPE bigint', "ALTER id TYPE bigint"),
        '"public"."items"': ('ALTER COLUMN "id" TYPE bigint',),
        '"public"."parts"': ('ALTER COLUMN "i" TYPE bigint',),
    }


def test_whole_graph_is_drawn_up_with_its_sequence(database: str, open_target: Open) -> None:
    run_sql(
        database,
        "CREATE TABLE o (id serial PRIMARY KEY)",
        "CREATE TABLE i (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, o int NOT NULL REFERENCES o)",
    )
    site = site_of(open_target(database))
    spec, _ = keygraph.widen(site.look, ChangeSpec((TableChange("o", ("ALTER id TYPE bigint",)),)))
    members = shadow.draw_up(site, "abcdefgh", spec, "shadow-table")
    assert [str(member.table) for member in members] == ['"public"."o"', '"public"."i"']
    assert [{c.into: c.type for c in member.forward.columns} for member in members] == [
        {"id": "bigint"},
        {"id": "integer", "o": "bigint"},
    ]
    assert members[0].dependents["sequences_widened"] == [
        {"sequence": '"public"."o_id_seq"', "type": "bigint", "was": "integer"}
    ]


def test_cycle_of_foreign_keys_ends_and_partitions_stand_for_their_table(any_database: str) -> None:
    run_sql(
        any_database,
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE b (id int PRIMARY KEY REFERENCES a)",
        "ALTER TABLE a ADD FOREIGN KEY (id) REFERENCES b",
        "CREATE TABLE p (id int, a int REFERENCES a, PRIMARY KEY (id)) PARTITION BY HASH (id)",
        "CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "CREATE TABLE q (id int PRIMARY KEY, b int REFERENCES b) PARTITION BY HASH (id)",
        "CREATE TABLE q0 PARTITION OF q FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    )
    found = widened(any_database, TableChange("a", ("ALTER id TYPE bigint USING id::int8, ADD n int",)))
    assert list(found) == ["a", '"public"."b"', '"public"."p"', '"public"."q"']
    assert found['"public"."p"'] == ('ALTER COLUMN "a" TYPE bigint USING "a"::bigint',)


def test_what_the_user_says_stands(database: str) -> None:
    run_sql(
        database,
        "CREATE TABLE o (id int PRIMARY KEY, code varchar(9) UNIQUE)",
        "CREATE TABLE t (id int PRIMARY KEY, o int CONSTRAINT fk REFERENCES o, c varchar(5) REFERENCES o (code))",
    )
    change = TableChange("o", ("ALTER id TYPE bigint",))
    assert widened(database, change, TableChange("t", ("ALTER o TYPE bigint",)))["t"] == ("ALTER o TYPE bigint",)
    assert widened(database, change, TableChange("t", ("DROP CONSTRAINT fk",)))["t"] == ("DROP CONSTRAINT fk",)
    assert list(widened(database, change, keys=False)) == ["o"]
    # Another length is the same type: nothing needs to follow.
    assert list(widened(database, TableChange("o", ("ALTER code TYPE varchar(20)",)))) == ["o"]
    with pytest.raises(StepFailed, match="other values by USING"):
        widened(database, TableChange("o", ("ALTER id TYPE bigint USING id * 2",)))
