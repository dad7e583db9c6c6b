"""What could not work is refused before any row moves, or its rows are isolated."""

from __future__ import annotations

from typing import Any

import pytest
from fix_targets import Open, drop_role, make_role, run_sql, value
from fix_transfers import CENTS, TABLES, fill_old, job

from segue.errors import SegueError, StepRefused

LOOKUP = {"table": "other", "alias": "o", "on": {"word": "old.name"}}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"source": "nothing"}, 'there is no table "nothing", the source'),
    ({"target": "nothing"}, 'there is no table "nothing", the target'),
    ({"target": "old"}, "are the same table"),
    ({"source": "seen"}, "is not a table"),
    ({"source": "keyless"}, "has no primary key and no unique index"),
    ({"set": {"price": "1"}}, 'has no column "price"'),
    ({"set": {"cents": "price"}}, 'column "price" does not exist'),
    ({"set": {"cents": "amount"}}, 'column "cents" is of type bigint but expression is of type text'),
    ({"set": {**CENTS, "twice": "1"}, "target": "computed"}, "is generated and cannot be written"),
    ({"columns": ["id", "cents"]}, 'refuses NULL in "name"'),
    ({"columns": ["id", "name", "nothing"]}, 'has no column "nothing"'),
    ({"set": {}, "columns": ["id", "name", "cents"]}, 'nothing is said of column "cents"'),
    ({"where": "nothing > 1"}, 'column "nothing" does not exist'),
    ({"where": "id + 1"}, "must be type boolean"),
    ({"checks": {"fine": "nothing"}}, 'the check "fine" of the job'),
    ({"lookups": [LOOKUP]}, "could find several rows for one"),
    ({"lookups": [{**LOOKUP, "on": {"nothing": "1"}}]}, 'has no column "nothing"'),
    ({"on_conflict": "update", "conflict": ["name"]}, "no unique or exclusion constraint"),
    ({"on_conflict": "update", "conflict": ["nothing"]}, "which the job does not write"),
    ({"on_conflict": "skip", "reverse": "delete"}, "rows could not be taken back"),
]


def test_job_that_could_not_work_is_refused_before_any_row_moves(database: str, open_target: Open) -> None:
    fill_old(database, 10)
    run_sql(
        database,
        "CREATE VIEW seen AS SELECT * FROM old",
        "CREATE TABLE keyless AS SELECT * FROM old",
        "CREATE TABLE other (word text, n int)",
        "CREATE TABLE computed (LIKE new, twice bigint GENERATED ALWAYS AS (cents * 2) STORED)",
    )
    target = open_target(database)
    for number, (fields, said) in enumerate(REFUSED):
        with pytest.raises(StepRefused) as error:
            job(target, step=f"job-{number}", **fields)
        assert said in error.value.message, fields
    assert value(database, "SELECT count(*) FROM new") == 0


@pytest.mark.parametrize("missing", ["SELECT ON old", "INSERT ON new"])
def test_job_without_a_privilege_is_refused(database: str, open_target: Open, missing: str) -> None:
    fill_old(database, 10)
    grants = [grant for grant in ("SELECT ON old", "INSERT ON new", "SELECT ON new") if grant != missing]
    name = value(database, "SELECT current_database()")
    role = make_role(
        database, f'GRANT CREATE ON DATABASE "{name}" TO {{role}}', *(f"GRANT {grant} TO {{role}}" for grant in grants)
    )
    target = open_target(role)
    with pytest.raises(SegueError, match="permission denied"):
        job(target)
    target.close()
    assert value(database, "SELECT count(*) FROM new") == 0
    drop_role(database, role)


def test_job_on_an_empty_table_is_done(database: str, open_target: Open) -> None:
    run_sql(database, *TABLES)
    assert job(open_target(database)).record.ended is True


def test_hostile_names_and_values_go_through(database: str, open_target: Open) -> None:
    run_sql(
        database,
        'CREATE TABLE "o ""ld%s" ("i;d" text COLLATE "C", "%s" int, PRIMARY KEY ("i;d", "%s"))',
        'CREATE TABLE "segue_k" ("i;d" text, "%s" int, "{x}" text)',
        'INSERT INTO "o ""ld%s" SELECT E\'\\\'\\\\%s\' || n, n FROM generate_series(1, 900) n',
    )
    given = {"source": '"o ""ld%s"', "target": '"segue_k"', "set": {"{x}": "1 / (\"%s\" - 7) || '%s' -- {}"}}
    job(open_target(database), continue_on_error=True, **given)
    assert value(database, 'SELECT count(*) FROM "segue_k"') == 899
    assert value(database, "SELECT key[1] FROM segue.rejected") == "'\\%s7"
