"""Promise 11: ordinary privileges are enough; which ones each feature needs is written down, and shown here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from fix_hostile import administrator
from fix_targets import Open, Run, apply, drop_role, fill, make_role, run_sql, session, value
from fix_transfers import job
from psycopg import conninfo, sql

from segue.databases.postgresql import DATABASE
from segue.databases.postgresql.cleaning import clean
from segue.errors import LockNotGranted, PrivilegeMissing, SegueError
from segue.model.online import ChangeSpec, TableChange
from segue.ports import FORWARD, EffectKey, Pace, Patience, Shared
from segue.rows.chunks import Remainder
from segue.rows.walk import Walk
from segue.steps.validate import STEP as VALIDATE
from segue.steps.validate import ValidateParams

PAGE = Path(__file__).parents[2] / "docs" / "privileges.md"
Act = Callable[[str, Open], object]


@dataclass(frozen=True)
class Feature:
    """What somebody wants to do, and the grants without each of which it is refused. `{role}` and `{database}`."""

    needs: tuple[str, ...]
    act: Act


LEASE = ("GRANT CREATE ON DATABASE {database} TO {role}",)
OWNER = ("ALTER TABLE t OWNER TO {role}",)
TEMPORARY = ("GRANT TEMPORARY ON DATABASE {database} TO {role}",)
HERE = ("GRANT CREATE ON SCHEMA public TO {role}",)


def _apply(command: str) -> Act:
    return lambda url, take: apply(take(url), command, locks=3)


def _validate(url: str, take: Open) -> None:
    VALIDATE.run(Run(take(url), ValidateParams(name="check", query="SELECT count(*) FROM t", scalar=10)))


def _clean(url: str, take: Open) -> None:
    take(url).close()
    assert clean(url, holder="tester", export=lambda rows: None).schema


def _fence(url: str, take: Open) -> None:
    fence = take(url).application_fence()
    fence.arm(FORWARD, ["t"], Patience(5, 5), lambda words: None)
    fence.closing(5)
    fence.close(["t"], Patience(5, 5), lambda words: None)
    fence.open()


def _look(url: str, take: Open) -> None:
    assert DATABASE.check(url, schema="public").findings
    statements = DATABASE.statements("ALTER TABLE t ADD COLUMN m int")
    assert DATABASE.assess(url, schema="public", steps=[statements]).tables["t"].kind == "table"


def _drift(url: str, take: Open) -> None:
    target = take(url)
    target.remember("public", None)
    assert target.drift("public") is None


def _change_online(url: str, take: Open) -> None:
    patience = Patience(5, 60)

    def note(words: str) -> None: ...

    target = take(url)
    key = EffectKey(target.lease.execution, "plan", "hash", "change", FORWARD, 0)
    change = target.online(key, ChangeSpec((TableChange("t", ("ALTER id TYPE bigint",)),)))
    change.prepare(note)
    change.create(patience, note)
    change.capture(patience, note)
    work = change.copying(1, patience)
    shared = Shared(work, 0.3, 1000)
    walk = Walk(
        shared,
        Remainder.of(work.progress(loose=True)),
        size=100,
        workers=1,
        patience=30,
        boundary=lambda: None,
        pace=Pace,
        slots=lambda wanted: wanted,
        note=lambda batches: None,
    )
    walk.go()
    change.copied()
    change.settle(patience, note, lambda: None, Pace, lambda seconds: None)
    change.verify(1, Pace, lambda seen: None, lambda: None)
    change.verified()
    change.swap(patience, 5.0, note)
    change.complete(patience, note, lambda: None)
    change.retire(patience, note)
    change.close()


FEATURES = {
    "Take the lease; keep history and progress": Feature(LEASE, lambda url, take: take(url).alive()),
    "Read the schema, find drift": Feature(LEASE, _drift),
    "`sql`: change a table": Feature((*LEASE, *OWNER), _apply("ALTER TABLE t ADD COLUMN m int")),
    "`sql`: create a table, view, function or type": Feature((*LEASE, *HERE), _apply("CREATE TABLE fresh (id int)")),
    "`sql`: build an index, also `CONCURRENTLY`": Feature(
        (*LEASE, *OWNER, *HERE), _apply("CREATE INDEX CONCURRENTLY t_n ON t (n)")
    ),
    "`sql`: a foreign key to a table of another owner": Feature(
        (*LEASE, *OWNER, "GRANT REFERENCES ON parent TO {role}"),
        _apply("ALTER TABLE t ADD FOREIGN KEY (n) REFERENCES parent NOT VALID"),
    ),
    "`backfill`": Feature(
        (*LEASE, "GRANT SELECT, UPDATE ON t TO {role}"), lambda url, take: fill(take(url), "t", set={"n": "n + 1"})
    ),
    "`data-job`; for its way back also SELECT and DELETE on the target": Feature(
        (*LEASE, "GRANT SELECT ON t TO {role}", "GRANT INSERT ON parent TO {role}", *TEMPORARY),
        lambda url, take: job(take(url), source="t", target="parent", set={}),
    ),
    "`validate`": Feature((*LEASE, "GRANT SELECT ON t TO {role}"), _validate),
    "`online-change`, but for the strategy `ghost`": Feature((*LEASE, *OWNER, *HERE, *TEMPORARY), _change_online),
    "A maintenance window's fence": Feature((*LEASE, *OWNER), _fence),
    "`segue env clean`": Feature(LEASE, _clean),
    "`segue env check`, `segue plan assess`": Feature((), _look),
}


@pytest.fixture
def plain(administered: str) -> Iterator[str]:
    """Give a database with a table of somebody else's, as a role that may do nothing yet."""
    run_sql(
        administered,
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0)",
        "INSERT INTO t SELECT generate_series(1, 10)",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    )
    url = make_role(administered)
    grant(administered, url, "REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
    yield url
    drop_role(administered, url)


def grant(owner: str, url: str, *grants: str) -> None:
    parts = conninfo.conninfo_to_dict(url)
    with psycopg.connect(owner, autocommit=True) as connection:
        names = {name: sql.Identifier(str(parts[key])) for name, key in (("role", "user"), ("database", "dbname"))}
        for command in grants:
            connection.execute(sql.SQL(command).format(**names))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_works_with_what_it_is_said_to_need(
    administered: str, plain: str, open_target: Open, name: str
) -> None:
    feature = FEATURES[name]
    grant(administered, plain, *feature.needs)
    # It raises where it is refused: the next test shows that it does, for each grant that is missing.
    feature.act(plain, open_target)


@pytest.mark.parametrize(
    ("name", "without"), [(name, grant) for name, feature in FEATURES.items() for grant in feature.needs]
)
def test_a_feature_is_refused_without_it(database: str, open_target: Open, name: str, without: str) -> None:
    database = administrator(database)
    run_sql(
        database,
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0)",
        "INSERT INTO t SELECT generate_series(1, 10)",
    )
    plain = make_role(database)
    try:
        grant(database, plain, "REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
        feature = FEATURES[name]
        grant(database, plain, *(each for each in feature.needs if each != without))
        with pytest.raises(SegueError) as caught:
            feature.act(plain, open_target)
        said = " ".join([caught.value.message, caught.value.hint, *caught.value.details])
        assert "permission denied" in said or "must be owner" in said or "GRANT" in said
        assert caught.value.exit_code == 2
        assert caught.value.hint
    finally:
        drop_role(database, plain)


def test_the_page_says_the_same() -> None:
    lines = [
        f"| {name} | {'<br>'.join(f'`{each}`' for each in feature.needs) or 'nothing more'} |"
        for name, feature in FEATURES.items()
    ]
    assert "\n".join(lines) in PAGE.read_text()


def test_without_create_on_the_database_the_grant_is_named(plain: str, open_target: Open) -> None:
    parts = conninfo.conninfo_to_dict(plain)
    with pytest.raises(PrivilegeMissing) as caught:
        open_target(plain)
    assert f'GRANT CREATE ON DATABASE "{parts["dbname"]}" TO "{parts["user"]}"' in caught.value.hint


def test_a_schema_made_by_somebody_else_stands_in_for_the_grant(
    administered: str, plain: str, open_target: Open
) -> None:
    grant(administered, plain, "CREATE SCHEMA segue AUTHORIZATION {role}", *OWNER)
    apply(open_target(plain), "ALTER TABLE t ADD COLUMN m int")
    assert (
        value(administered, "SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'm'") == 1
    )
    assert value(administered, "SELECT count(*) FROM segue.history WHERE state = 'done'") == 1


def test_an_owner_is_enough_for_everything(ordinary: str, open_target: Open) -> None:
    assert value(ordinary, "SELECT current_setting('is_superuser')") == "off"
    run_sql(
        ordinary,
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0, parent int)",
        "INSERT INTO t SELECT generate_series(1, 100)",
    )
    target = open_target(ordinary)
    apply(
        target,
        "ALTER TABLE t ADD COLUMN m int; CREATE INDEX CONCURRENTLY t_m ON t (m); "
        "ALTER TABLE t ADD FOREIGN KEY (parent) REFERENCES parent NOT VALID; "
        "ALTER TABLE t VALIDATE CONSTRAINT t_parent_fkey; "
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$; "
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); "
        "REINDEX INDEX CONCURRENTLY t_m; VACUUM (ANALYZE) t; DROP INDEX CONCURRENTLY t_m",
    )
    fill(target, "t", set={"m": "id * 2"}, batch={"size": 10}, workers=2)
    target.remember("public", None)
    assert target.drift("public") is None
    assert target.gauge().sample().wal_bytes > 0
    target.close()
    second = open_target(ordinary, "second")
    second.close()
    assert clean(ordinary, holder="tester", export=lambda rows: None).schema
    assert DATABASE.probe(ordinary).can_create


def test_what_a_blocker_runs_is_shown_to_those_who_may_see_it(
    administered: str, ordinary: str, open_target: Open
) -> None:
    run_sql(ordinary, "CREATE TABLE t (id int)")
    grant(administered, ordinary, "GRANT pg_read_all_stats TO {role}")
    target = open_target(ordinary)
    with session(administered, "SELECT count(*) AS of_the_month FROM t"), pytest.raises(LockNotGranted) as caught:
        apply(target, "ALTER TABLE t ADD COLUMN m int", locks=0.5)
    assert "of_the_month" in caught.value.details[0]
