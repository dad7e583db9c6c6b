"""Every row is copied once, whatever the table is and whatever happens to the sessions that copy."""

from __future__ import annotations

from typing import Any

import pytest
from fix_online import Assemble, HandMade, site_of
from fix_targets import Background, rows, run_sql, session, terminate, until, value

from segue.databases.postgresql.online import copying, refusing
from segue.errors import FenceLost, OutcomeUnknown, StepFailed, TargetUnreachable

SHAPES = {
    "plain": (
        "(id int PRIMARY KEY, v text)",
        "SELECT g, 'v' || g FROM generate_series(-30, 30) g",
        "(id bigint, v text)",
    ),
    "composite": (
        "(a int, b text, v int, PRIMARY KEY (b, a))",
        "SELECT g % 4, 'x' || g % 9 || chr(64 + g), g FROM generate_series(1, 60) g",
        "(v bigint, b text, a int)",
    ),
    "uuid": (
        "(id uuid PRIMARY KEY, v int)",
        "SELECT md5(g::text)::uuid, g FROM generate_series(1, 60) g",
        "(id uuid, v int)",
    ),
    "text in C": (
        '(id text COLLATE "C" PRIMARY KEY, v int)',
        "SELECT chr(33 + g) || CASE WHEN g % 2 = 0 THEN 'É''\\%s' ELSE 'e' END, g FROM generate_series(1, 60) g",
        "(id text, v int)",
    ),
    "gaps of billions": (
        "(id bigint PRIMARY KEY, v int)",
        "SELECT g * g * 3000000000::bigint, g FROM generate_series(0, 60) g UNION SELECT unnest(array"
        "[-9223372036854775808, 9223372036854775807]), 0",
        "(id numeric, v int)",
    ),
    "unique instead of primary": (
        "(x int, id int NOT NULL UNIQUE)",
        "SELECT g, g * 2 FROM generate_series(1, 60) g",
        "(x int, id bigint)",
    ),
    "identity and generated columns": (
        "(id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED)",
        "(n) SELECT g FROM generate_series(1, 60) g",
        "(id bigint GENERATED ALWAYS AS IDENTITY, n bigint, twice bigint GENERATED ALWAYS AS (n * 2) STORED)",
    ),
    "partitions": (
        "(id int, day int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "SELECT g, g % 5 FROM generate_series(1, 60) g",
        "(id bigint, day int)",
    ),
    "quoted names": (
        '("Der ""Schlüssel"" %s" int PRIMARY KEY, "{}" text)',
        "SELECT g, '%s {}' FROM generate_series(1, 60) g",
        '("{}" varchar(90), "Der ""Schlüssel"" %s" bigint)',
    ),
    "enum": (
        "(id mood PRIMARY KEY, v int)",
        "SELECT id, 1 FROM unnest(enum_range(NULL::mood)) AS id",
        "(id text, v int)",
    ),
    "one row": ("(id int PRIMARY KEY)", "SELECT 1", "(id bigint)"),
    "empty": ("(id int PRIMARY KEY)", "SELECT 1 WHERE false", "(id bigint)"),
}


def assembled(url: str, assemble: Assemble, name: str) -> HandMade:
    columns, filling, shadow = SHAPES[name]
    run_sql(url, "CREATE TYPE mood AS ENUM ('z', 'b', 'y', 'a', 'x', 'c', 'w', 'd', 'v')", f"CREATE TABLE t {columns}")
    if "PARTITION" in columns:
        run_sql(
            url,
            "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (3)",
            "CREATE TABLE t2 PARTITION OF t DEFAULT",
        )
    run_sql(url, f"INSERT INTO t {filling}")
    return assemble(url, "t", shadow)


@pytest.mark.parametrize("name", SHAPES)
def test_every_row_is_copied_once_whatever_the_table(database: str, assemble: Assemble, name: str) -> None:
    copy_once(database, assemble, name)


@pytest.mark.parametrize("name", ["composite", "partitions", "identity and generated columns"])
def test_the_same_on_an_older_server(debian_database: str, assemble: Assemble, name: str) -> None:
    copy_once(debian_database, assemble, name)


def copy_once(any_database: str, assemble: Assemble, name: str) -> None:
    """Copy a table of this shape, and once more, and begin anew."""
    change = assembled(any_database, assemble, name)
    total = value(any_database, "SELECT count(*) FROM t")
    assert change.copy(size=7, largest=7, workers=2) == total
    assert change.differences() == []
    assert change.copy(size=7) == 0
    written = "SELECT count(*), sum(keys), sum(rows) FROM segue.chunk WHERE step = 'step:1.1'"
    chunks, keys, copied = rows(any_database, written)[0]
    assert (keys or 0, copied or 0) == (total, total)
    assert chunks >= total / 7
    assert total == 0 or change.copy(size=100, round_=2) == total


@pytest.fixture
def items(database: str, assemble: Assemble) -> HandMade:
    """Give a captured table of five hundred rows."""
    run_sql(
        database,
        "CREATE TABLE items (id int PRIMARY KEY, n int, note text)",
        "INSERT INTO items SELECT g, g, 'note ' || g FROM generate_series(1, 500) g",
    )
    return assemble(database, "items", "(id bigint, n int, note text)")


class Stop(Exception):
    pass


def stopping_after(change: HandMade, chunks: int) -> Any:
    """Return a boundary that stops once so many chunks are written."""

    def boundary() -> None:
        if value(change.url, "SELECT count(*) FROM segue.chunk") >= chunks:
            raise Stop

    return boundary


def test_a_copy_that_was_stopped_goes_on_where_it_was(items: HandMade) -> None:
    with pytest.raises(Stop):
        items.copy(size=20, largest=20, workers=2, pause=0.02, boundary=stopping_after(items, 3))
    before = value(items.url, f"SELECT count(*) FROM {items.into}")
    assert 60 <= before < 500
    assert items.copy(size=20, largest=20) == 500 - before
    assert items.differences() == []


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_every_row_is_copied_once_while_sessions_die(items: HandMade, seed: int) -> None:
    run_sql(items.url, "UPDATE items SET n = -1 WHERE id % 90 = 0", f"ALTER TABLE {items.into} ADD CHECK (n > 0)")
    died = sum(killed_after(items, 3 + seed) for _ in range(4))
    assert died > 1
    items.copy()
    assert rows(items.url, f"SELECT count(*), count(DISTINCT id) FROM {items.into}") == [(495, 495)]
    assert len(items.conflicts()) == 5
    assert {row[0] for row in items.differences()} == {"missing"}


def killed_after(change: HandMade, chunks: int) -> bool:
    """Copy until some more chunks are written, and end every session; return whether the copy died of it."""

    def written() -> int:
        return int(value(change.url, "SELECT count(*) FROM segue.chunk"))

    wanted = written() + chunks
    copying_ = Background(lambda: change.copy(size=11, largest=11, workers=2, pause=0.01))
    until(lambda: not copying_.is_alive() or written() >= wanted)
    terminate(change.url)
    try:
        copying_.result()
    except (OutcomeUnknown, TargetUnreachable):
        return True
    finally:
        recover(change)
    return False


def recover(change: HandMade) -> None:
    """Reach the target again after its sessions were ended, as the executor does."""
    change.target.recover(10)
    change.site = site_of(change.target)


def test_rows_that_come_after_the_beginning_are_left_to_the_log(items: HandMade) -> None:
    with pytest.raises(Stop):
        items.copy(size=20, largest=20, pause=0.02, boundary=stopping_after(items, 2))
    run_sql(
        items.url, "INSERT INTO items SELECT g, g FROM generate_series(501, 900) g", "DELETE FROM items WHERE id = 500"
    )
    items.copy(size=20)
    assert value(items.url, f"SELECT max(id) FROM {items.into}") == 499
    items.index()
    assert items.drain().keys == 401
    assert items.differences() == []


def test_rows_that_are_refused_are_conflicts_and_all_others_are_copied(items: HandMade) -> None:
    run_sql(
        items.url,
        "UPDATE items SET note = NULL WHERE id IN (1, 250, 251, 252)",
        f"ALTER TABLE {items.into} ALTER note SET NOT NULL, ADD CONSTRAINT small CHECK (n < 500)",
    )
    assert items.copy(size=200, largest=200) == 495
    conflicts = items.conflicts()
    assert conflicts[:2] == [(["1"], "23502", "note"), (["250"], "23502", "note")]
    assert conflicts[-1] == (["500"], "23514", "small")
    assert len(conflicts) == 5
    assert value(items.url, "SELECT sum(keys) FROM segue.chunk") == 500


def test_a_large_chunk_with_a_refused_row_is_done_in_pieces(items: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "SIFTED_KEYS", 40)
    run_sql(items.url, "UPDATE items SET n = 0 WHERE id IN (100, 300)", f"ALTER TABLE {items.into} ADD CHECK (n > 0)")
    assert items.copy(size=500) == 498
    assert value(items.url, "SELECT max(keys) FROM segue.chunk") == 40
    assert [key for key, _, _ in items.conflicts()] == [["100"], ["300"]]


def test_more_conflicts_than_anybody_would_mend_stop_the_copy(items: HandMade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusing, "MOST_CONFLICTS", 30)
    run_sql(items.url, f"ALTER TABLE {items.into} ADD CHECK (n % 2 = 0)")
    with pytest.raises(StepFailed, match="refuses more than 30 rows"):
        items.copy(size=20, largest=20)
    assert len(items.conflicts()) <= 30


def test_what_is_no_rows_fault_stops_the_copy(items: HandMade) -> None:
    work = items.work()
    run_sql(items.url, f"ALTER TABLE {items.into} DROP COLUMN note")
    with pytest.raises(StepFailed, match='"note"'):
        items.copy()
    assert items.conflicts() == []
    assert work.progress() == []


def test_an_expression_that_the_server_refuses_is_found_before_anything_is_copied(items: HandMade) -> None:
    (first, *others) = items.flow.columns
    wrong = first.model_copy(update={"expression": "nothing_of_the_kind + 1"})
    items.flow = items.flow.model_copy(update={"columns": (wrong, *others)})
    with pytest.raises(StepFailed, match="nothing_of_the_kind"):
        items.work()


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("note || '%s {} ;' -- the end", "note 7%s {} ;"),
        ("items.note /* ; */ || $$it's$$", "note 7it's"),
        ("(SELECT max(i.note) FROM items i WHERE i.id = items.id)", "note 7"),
        ("CASE WHEN n = 7 THEN E'\\\\' END", "\\"),
    ],
)
def test_an_expression_is_taken_as_it_is(items: HandMade, expression: str, wanted: str) -> None:
    columns = [c.model_copy(update={"expression": expression}) if c.into == "note" else c for c in items.flow.columns]
    items.flow = items.flow.model_copy(update={"columns": tuple(columns)})
    items.copy()
    assert value(items.url, f"SELECT note FROM {items.into} WHERE id = 7") == wanted
    items.index()
    run_sql(items.url, "UPDATE items SET n = n WHERE id < 9")
    assert items.drain(compare=True).differing == 0
    assert value(items.url, f"SELECT note FROM {items.into} WHERE id = 7") == wanted


def test_a_copy_waits_for_nobody_who_keeps_the_table(items: HandMade) -> None:
    with session(items.url, "LOCK TABLE items IN ACCESS EXCLUSIVE MODE") as keeper:
        work = Background(lambda: items.copy(size=50))
        until(lambda: value(items.url, "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL") > 0)
        keeper.rollback()
        assert work.result() == 500
    assert items.differences() == []


def test_a_driver_that_lost_the_lease_copies_nothing(items: HandMade) -> None:
    items.work()
    run_sql(items.url, "UPDATE segue.lease SET fence = fence + 1")
    with pytest.raises(FenceLost):
        items.copy()
    assert value(items.url, f"SELECT count(*) FROM {items.into}") == 0
