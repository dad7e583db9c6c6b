"""SQL text is split by the server's grammar, and what a plan may not contain is refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from segue.databases.postgresql.parse import statements
from segue.errors import SqlSyntaxError
from segue.model.impact import Duration, Lock


def one(sql: str):
    """Return the only statement of a text."""
    (statement,) = statements(sql)
    return statement


def test_statements_keep_their_own_words_without_rim() -> None:
    text = "-- señor\n/* é */ SELECT 'a;b' -- tail\n;\n;; DROP TABLE x ; -- end ü\n"
    found = statements(text)
    assert [statement.sql for statement in found] == ["SELECT 'a;b'", "DROP TABLE x"]


@settings(max_examples=60, deadline=None)
@given(some.lists(some.sampled_from(["é", "日本", "x", "🎼", "ß "]), max_size=6), some.integers(1, 4))
def test_offsets_count_characters(words: list[str], count: int) -> None:
    remark = "-- " + "".join(words) + "\n"
    text = "".join(f"{remark}SELECT '{''.join(words)}', {number};\n" for number in range(count))
    for statement in statements(text):
        assert text[statement.offset :].startswith(statement.sql)


@pytest.mark.parametrize("word", ["x", "ééé", "🎼日本"])
@pytest.mark.parametrize("wrong", ["SELECT '{}' AS a WHERE FROM t", "SELECT '{}', 'open"])
def test_syntax_error_says_where_in_characters(word: str, wrong: str) -> None:
    text = f"SELECT '{word}';\n" + wrong.format(word)
    with pytest.raises(SqlSyntaxError) as caught:
        statements(text)
    assert caught.value.offset == text.index("FROM" if "FROM" in text else "'open")
    assert caught.value.sql == text


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("BEGIN", "transaction control"),
        ("COMMIT; SELECT 1", "transaction control"),
        ("SAVEPOINT a", "transaction control"),
        ("SET lock_timeout = '1s'", "SET and RESET"),
        ("SET LOCAL search_path = x", "SET and RESET"),
        ("RESET ALL", "SET and RESET"),
        ("SELECT pg_catalog.set_config('search_path', '', false)", "set_config"),
        ("CREATE TABLE t AS SELECT set_config('search_path', 'x', false)", "set_config"),
        ("UPDATE t SET a = set_config('row_security', 'on', false)", "set_config"),
        ("DROP SCHEMA IF EXISTS x, segue CASCADE", "Segue's own"),
        ("ALTER SCHEMA segue RENAME TO x", "Segue's own"),
        ("UPDATE segue.lease SET fence = 9", "Segue's own"),
        ("WITH gone AS (DELETE FROM segue.history RETURNING 1) SELECT count(*) FROM gone", "Segue's own"),
        ("SELECT * FROM segue.lease FOR UPDATE", "Segue's own"),
        ("TRUNCATE t, segue.chunk", "Segue's own"),
        ("DROP TABLE segue.chunk", "Segue's own"),
        ("DROP TRIGGER x ON segue.lease", "Segue's own"),
        ("LOCK TABLE segue.lease", "Segue's own"),
        ("\\d customers", "backslash"),
        ("SELECT 1;\n\\connect other", "backslash"),
        ("COPY t FROM STDIN", "FROM STDIN"),
        ("COPY t FROM STDIN;\n1\t2\n\\.\n", "FROM STDIN"),
        ("COPY t TO STDOUT", "TO STDOUT"),
        ("DO $$ BEGIN UPDATE t SET a = 1; COMMIT; END $$", "DO block"),
        ("DO $$ BEGIN FOR i IN 1..3 LOOP IF true THEN ROLLBACK; END IF; END LOOP; END $$", "DO block"),
        ("CREATE INDEX CONCURRENTLY ON t (a)", "no name"),
        ("PREPARE p AS SELECT 1", "PREPARE"),
        ("DECLARE c CURSOR FOR SELECT 1", "cursors"),
        ("LISTEN x", "LISTEN"),
        ("SELECT 1\x00; DROP TABLE t", "NUL"),
    ],
)
def test_what_a_plan_may_not_contain_is_refused(sql: str, words: str) -> None:
    with pytest.raises(SqlSyntaxError, match=words) as caught:
        statements(sql)
    assert caught.value.exit_code == 2


def test_nothing_of_a_new_table_is_a_lock() -> None:
    found = statements(
        "CREATE TABLE fresh (id int); CREATE INDEX i ON public.fresh (id); ALTER TABLE fresh ADD PRIMARY KEY (id);"
        "DROP INDEX i; ALTER TABLE other.fresh ADD COLUMN x int"
    )
    assert [statement.lock for statement in found] == [Lock.NONE] * 4 + [Lock.ACCESS_EXCLUSIVE]


def test_table_that_may_exist_already_is_not_new() -> None:
    _, index = statements("CREATE TABLE IF NOT EXISTS t (id int); CREATE INDEX i ON t (id)")
    assert index.lock is Lock.SHARE


def test_parents_are_locked_first() -> None:
    statement = one("ALTER TABLE orders ADD COLUMN x int, ADD FOREIGN KEY (x) REFERENCES customers NOT VALID")
    assert [held.table for held in statement.locks] == ["customers", "orders"]
    assert statement.lock is Lock.ACCESS_EXCLUSIVE


def test_names_are_written_as_sql_writes_them() -> None:
    statement = one('CREATE INDEX CONCURRENTLY "By Day" ON shop."Order" (day)')
    assert statement.locks[0].table == 'shop."Order"'
    assert statement.index is not None
    assert statement.index.name == 'shop."By Day"'
    assert one('DROP TABLE "order"').locks[0].table == '"order"'


def test_a_validated_check_spares_the_scan() -> None:
    text = (
        "ALTER TABLE t ADD CONSTRAINT c CHECK (a IS NOT NULL) NOT VALID; ALTER TABLE t VALIDATE CONSTRAINT c;"
        "ALTER TABLE t ALTER a SET NOT NULL; ALTER TABLE t DROP CONSTRAINT c; ALTER TABLE t ALTER a SET NOT NULL"
    )
    durations = [statement.duration for statement in statements(text)]
    assert durations == [Duration.INSTANT, Duration.SCAN, Duration.INSTANT, Duration.INSTANT, Duration.SCAN]


def test_unvalidated_check_does_not_spare_the_scan() -> None:
    text = "ALTER TABLE t ADD CONSTRAINT c CHECK (a IS NOT NULL) NOT VALID; ALTER TABLE t ALTER a SET NOT NULL"
    assert statements(text)[1].duration is Duration.SCAN


@pytest.mark.parametrize("sql", ["DO $$ BEGIN PERFORM 1; END $$", "CALL p()", "REASSIGN OWNED BY a TO b"])
def test_what_cannot_be_analysed_counts_as_the_strongest_lock(sql: str) -> None:
    statement = one(sql)
    assert statement.lock is Lock.ACCESS_EXCLUSIVE
    assert statement.notes
    assert not any(held.known for held in statement.locks)


@pytest.mark.parametrize(
    "sql",
    [
        "VACUUM t",
        "CREATE DATABASE d",
        "DROP DATABASE d",
        "ALTER SYSTEM SET work_mem = '1MB'",
        "CREATE TABLESPACE s LOCATION '/x'",
        "REINDEX SCHEMA public",
        "REINDEX (CONCURRENTLY) TABLE t",
        "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p",
        "ALTER SUBSCRIPTION s REFRESH PUBLICATION",
        "ALTER TABLE p DETACH PARTITION c CONCURRENTLY",
        "CLUSTER",
        "CALL p()",
    ],
)
def test_statement_that_must_stand_alone(sql: str) -> None:
    assert not one(sql).transactional


@pytest.mark.parametrize(
    ("sql", "destroys"),
    [
        ("DROP TABLE t", True),
        ("ALTER TABLE t DROP COLUMN a", True),
        ("TRUNCATE t", True),
        ("DELETE FROM t", True),
        ("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x", True),
        ("DROP SCHEMA s", True),
        ("DROP INDEX i", False),
        ("UPDATE t SET a = 1", False),
        ("DROP VIEW v", False),
    ],
)
def test_destroys_is_said_of_lost_data(sql: str, destroys: bool) -> None:
    assert one(sql).destroys is destroys


def test_empty_text_has_no_statements() -> None:
    assert statements("  -- nothing\n;;") == []


def test_segues_own_schema_may_be_read() -> None:
    assert one("SELECT count(*) FROM segue.history").verb == "SELECT"
    assert one("CREATE TABLE segue (id int)").verb == "CREATE TABLE"


def test_long_chains_of_operators_are_ordinary() -> None:
    assert one(f"UPDATE t SET a = {' || '.join(['b'] * 400)}").verb == "UPDATE"
    assert one(" UNION ALL ".join(["SELECT 1"] * 300)).verb == "SELECT"
    assert one(f"SELECT {'(SELECT ' * 60}1{')' * 60}").verb == "SELECT"


def test_what_nobody_could_read_is_refused_with_words() -> None:
    with pytest.raises(SqlSyntaxError, match=r"nested too deeply|memory exhausted"):
        statements(f"SELECT {'+'.join(['1'] * 60_000)}")
    with pytest.raises(SqlSyntaxError, match=r"nested too deeply|memory exhausted"):
        statements(f"SELECT {'(' * 30_000}1{')' * 30_000}")
