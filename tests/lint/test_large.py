"""Dumps of many megabytes: read a slice at a time, and every statement is where it would be otherwise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fix_targets import run_sql

from segue.databases.postgresql.changes import _read, comments, read
from segue.databases.postgresql.changes.slices import SLICE
from segue.errors import SqlSyntaxError

#: What holds a semicolon at the end of a line that ends no statement.
TRAPS = """\
COMMENT ON TABLE orders IS 'é;
;
';
CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC
SELECT 1;
SELECT 2;
END;
/* ;
/* ;
*/ */ CREATE RULE r AS ON UPDATE TO orders DO ALSO (DELETE FROM a;
DELETE FROM b;
);
DO $é$
BEGIN;
END;
$é$;
-- ;
CREATE INDEX i ON orders (day);
"""
#: Rows for two tables, with another statement between them.
ROWS = (
    "INSERT INTO orders (id, note) VALUES (1, 'a; ''b''');\n" * 300
    + "INSERT INTO public.\"A b\" VALUES ((SELECT max(id) FROM orders), 'ß'), (2, 'x') ON CONFLICT DO NOTHING;\n" * 200
    + "UPDATE orders SET note = 'x' WHERE id = 1;\n"
)
#: A command that says how much memory it had at most. What the system counts for a child begins with its parent's.
MEASURED = """
import re, sys
from pathlib import Path
from segue.cli import perform
code = perform(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1], file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_long_text_is_read_as_a_short_one(end: str) -> None:
    text = ((TRAPS + ROWS) * 40 + "-- segue: ignore é\nSELECT 1").replace("\n", end)
    assert len(text) > 2 * SLICE
    whole, sliced = iter(_read(text, 0)), read(text)
    for statement in sliced:
        alike = [next(whole) for _ in range(statement.number)]
        assert (statement.offset, statement.changes) == (alike[0].offset, alike[0].changes)
        assert statement.sql == text[alike[0].offset : alike[-1].offset + len(alike[-1].sql)]
    assert next(whole, None) is None
    assert len(sliced) < 800
    assert [(text[place : place + len(words)], words) for place, words in comments(text)][-1] == (
        "-- segue: ignore é",
        "-- segue: ignore é",
    )


def test_mistake_far_inside_is_found_at_its_place() -> None:
    text = (TRAPS + ROWS) * 30 + "\nCREATE TABEL x ();\n" + ROWS * 20
    with pytest.raises(SqlSyntaxError, match="TABEL") as error:
        read(text)
    assert error.value.offset == text.index("TABEL")


@pytest.mark.parametrize("kind", ["insert", "copy"])
@pytest.mark.parametrize("megabytes", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_dump_needs_no_more_memory_than_some_copies_of_it(kind: str, megabytes: int, tmp_path: Path) -> None:
    begin = "CREATE TABLE public.orders (id bigint, note text);\n"
    line = "{}\tnote; with 'quotes'\t\\N\n" if kind == "copy" else "INSERT INTO public.orders VALUES ({}, 'note;');\n"
    count = megabytes * 1_000_000 // len(line)
    with (tmp_path / "dump.sql").open("w") as file:
        file.write(begin + ("COPY public.orders (id, note, more) FROM stdin;\n" if kind == "copy" else ""))
        file.writelines(line.format(number) for number in range(count))
        file.write(("\\.\n\n" if kind == "copy" else "") + "CREATE INDEX i ON elsewhere (a);\n")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "lint", "dump.sql", "--json"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["statements"] == (3 if kind == "copy" else 2 + count)
    assert [(item["line"], item["column"]) for item in found["findings"]] == [(count + (5 if kind == "copy" else 2), 1)]
    assert int(done.stderr) < 80_000 + 8_000 * megabytes  # kilobytes


DUMPED = """
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "a; b" text, raw bytea);
CREATE FUNCTION one() RETURNS int LANGUAGE plpgsql AS $x$ BEGIN RETURN 1; END; $x$;
CREATE FUNCTION two() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END;
CREATE TABLE lines (id bigint PRIMARY KEY, order_id bigint REFERENCES orders);
COMMENT ON TABLE lines IS 'COPY lines FROM stdin;';
INSERT INTO orders ("a; b", raw) SELECT format(e'a''\\\\n;\\n\\\\.\\n%s', n), decode(md5(n::text), 'hex')
FROM generate_series(1, 9000) n;
INSERT INTO lines SELECT n, n FROM generate_series(1, 9000) n;
"""


@pytest.mark.parametrize("options", [[], ["--inserts"], ["--column-inserts", "--rows-per-insert=50"]])
def test_what_pg_dump_writes_is_read_and_nobody_waits_for_new_tables(debian_database: str, options: list[str]) -> None:
    run_sql(debian_database, DUMPED)
    dump = subprocess.run(
        ["/usr/lib/postgresql/15/bin/pg_dump", "--no-owner", debian_database, *options], capture_output=True, check=True
    ).stdout
    words = [sys.executable, "-m", "segue", "lint", "-", "--json", "--select", "add-foreign-key"]
    done = subprocess.run(words, input=dump, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads(done.stdout)
    inserted = {0: 0, 1: 18_000, 2: 360}[len(options)]
    assert found["statements"] - inserted in range(15, 40)
