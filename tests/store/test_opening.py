"""Opening the store, and what is said when it cannot be opened or goes away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from fix_targets import run_sql
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from segue.errors import Busy, ConfigurationError, ExitCode, SegueError, TargetUnreachable
from segue.model.vocabulary import Level, Strategy
from segue.settings import Settings
from segue.store import Store, ledger, open_store
from segue.store.migrations import HEAD
from segue.store.tables.plans import PlanRow, StepRow

NewPlan = Callable[..., PlanRow]


def opened(url: str, home: Path) -> str:
    with open_store(Settings(home=home, store=url, key=None, user="ada")) as store:
        return store.head()


def refusal(url: str, home: Path) -> SegueError:
    with pytest.raises(SegueError) as refused:
        opened(url, home)
    password = urlsplit(url).password
    assert password
    assert password not in str(refused.value.as_json())
    return refused.value


def test_the_embedded_store_opens_and_keeps_what_was_written(home: Path, new_plan: NewPlan) -> None:
    settings = Settings(home=home, store=None, key=None, user="ada")
    with open_store(settings) as store:
        assert store.embedded
        assert store.server_version().startswith("18")
        with store.session() as session:
            session.add(new_plan())
    with open_store(settings) as store, store.session() as session:
        assert session.scalar(select(func.count()).select_from(PlanRow)) == 1


def test_the_store_works_on_debians_postgresql(debian_database: str, tmp_path: Path) -> None:
    assert opened(debian_database, tmp_path) == HEAD


def test_the_store_needs_no_superuser(ordinary: str, tmp_path: Path, new_plan: NewPlan) -> None:
    with open_store(Settings(home=tmp_path, store=ordinary, key=None, user="ada")) as store:
        with store.session() as session:
            session.add(new_plan())
            ledger.append(session, actor="ada", action="added", subject="plans", subject_id="p", detail={})
        with store.session() as session:
            assert ledger.verify(session) == []


def test_a_default_that_skips_triggers_does_not_reach_the_store(store_url: str, tmp_path: Path) -> None:
    name = conninfo_to_dict(store_url)["dbname"]
    run_sql(store_url, f'ALTER DATABASE "{name}" SET session_replication_role = replica')
    with (
        open_store(Settings(home=tmp_path, store=store_url, key=None, user="ada")) as store,
        store.session() as session,
    ):
        assert session.scalar(text("SHOW session_replication_role")) == "origin"


def test_nobody_listens(tmp_path: Path) -> None:
    error = refusal("postgresql://ada:geheim@127.0.0.1:1/team", tmp_path)
    assert isinstance(error, TargetUnreachable)
    assert error.message.startswith('the store "127.0.0.1:1/team" cannot be reached: ')


def test_a_wrong_password(store_url: str, tmp_path: Path) -> None:
    url = urlsplit(store_url)
    error = refusal(url._replace(netloc=f"{url.username}:geheim@{url.netloc.split('@')[1]}").geturl(), tmp_path)
    assert isinstance(error, ConfigurationError)
    assert "password authentication failed" in error.message


def test_a_database_that_is_not_there(store_url: str, tmp_path: Path) -> None:
    error = refusal(urlsplit(store_url)._replace(path="/nowhere").geturl(), tmp_path)
    assert isinstance(error, ConfigurationError)
    assert 'database "nowhere" does not exist' in error.message


def test_a_url_that_cannot_be_read(tmp_path: Path) -> None:
    error = refusal("postgresql://ada:geheim%zz@localhost/x", tmp_path)
    assert error.exit_code == ExitCode.CONFIGURATION


def test_a_database_in_another_encoding(server: object, store_url: str, tmp_path: Path) -> None:
    with psycopg.connect(store_url, autocommit=True) as connection:
        name = connection.info.dbname + "_latin"
        connection.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        try:
            error = refusal(urlsplit(store_url)._replace(path=f"/{name}").geturl(), tmp_path)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert error.message == "the store's database has the encoding LATIN1"


def test_a_read_only_default_does_not_hinder_the_store(store_url: str, tmp_path: Path) -> None:
    with psycopg.connect(store_url, autocommit=True) as connection:
        name = connection.info.dbname
        for hostile in (
            "default_transaction_read_only = on",
            "default_transaction_isolation = 'serializable'",
            "statement_timeout = '1ms'",
            "search_path = 'nowhere'",
            "DateStyle = 'SQL, DMY'",
            "TimeZone = 'Asia/Tokyo'",
        ):
            connection.execute(f"ALTER DATABASE {name} SET {hostile}")
    assert opened(store_url, tmp_path) == HEAD


def test_times_are_in_utc(store: Store, new_plan: NewPlan) -> None:
    with store.session() as session:
        plan = new_plan()
        session.add(plan)
        session.flush()
        assert plan.created_at.utcoffset() is not None
        assert session.scalar(text("SHOW timezone")) == "UTC"


def test_an_idle_connection_that_was_cut_is_replaced(store: Store) -> None:
    cut(store)
    assert store.head() == HEAD


def test_a_connection_that_is_cut_in_a_transaction(store: Store) -> None:
    def work() -> None:
        with store.session() as session:
            session.execute(text("SELECT 1"))
            cut(store)
            session.execute(text("SELECT 1"))

    with pytest.raises(TargetUnreachable, match="cannot be reached") as gone:
        work()
    assert gone.value.exit_code == ExitCode.UNREACHABLE
    assert store.head() == HEAD


def cut(store: Store) -> None:
    with psycopg.connect(store.url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'segue store' AND datname = current_database()"
        )


def test_a_lock_that_is_not_granted_is_busy(store: Store, new_plan: NewPlan) -> None:
    with store.session() as session:
        session.add(new_plan())
    with psycopg.connect(store.url) as other:
        other.execute("LOCK TABLE segue_store.migration_plans")
        with pytest.raises(Busy, match="the store is busy"), store.session() as session:
            session.execute(text("SET LOCAL lock_timeout = '50ms'; SELECT FROM segue_store.migration_plans"))


def test_a_store_of_which_a_part_was_restored(store_url: str, tmp_path: Path) -> None:
    assert opened(store_url, tmp_path) == HEAD
    run_sql(store_url, "DELETE FROM segue_store.alembic_version")
    error = refusal(store_url, tmp_path)
    assert isinstance(error, ConfigurationError)
    assert "is damaged: " in error.message


def test_a_store_with_a_table_missing(store: Store) -> None:
    with store.session() as session:
        session.execute(text("DROP TABLE segue_store.workers"))
    with pytest.raises(ConfigurationError, match="is damaged"), store.session() as session:
        session.execute(text("SELECT * FROM segue_store.workers"))


def test_a_store_whose_disk_is_full_is_waited_for(store: Store) -> None:
    full = "DO $$ BEGIN RAISE EXCEPTION 'could not extend file' USING errcode = '53100'; END $$"
    with (
        pytest.raises(TargetUnreachable, match=r'the store ".*" cannot write: could not extend'),
        store.session() as session,
    ):
        session.execute(text(full))


def test_other_errors_come_as_they_are(store: Store, new_plan: NewPlan) -> None:
    with pytest.raises(IntegrityError), store.session() as session:
        session.add_all([new_plan(), new_plan()])


def test_a_failed_session_leaves_nothing(store: Store, new_plan: NewPlan) -> None:
    def work() -> None:
        with store.session() as session:
            session.add(new_plan())
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    with store.session() as session:
        assert session.scalars(select(PlanRow)).all() == []


def test_the_store_keeps_updated_at(store: Store, new_plan: NewPlan) -> None:
    with store.session() as session:
        plan = new_plan()
        session.add(plan)
    first = plan.updated_at
    with psycopg.connect(store.url) as connection:
        connection.execute("UPDATE segue_store.migration_plans SET updated_at = '1999-01-01'")
    with store.session() as session:
        again = session.get_one(PlanRow, plan.id)
        assert again.updated_at > first
        again.description = "other"
        session.flush()
        assert again.updated_at >= first


def test_steps_go_with_their_plan_and_enumerations_are_texts(store: Store, new_plan: NewPlan) -> None:
    with store.session() as session:
        plan = new_plan(strategy=Strategy.ROLLING, complexity=Level.HIGH)
        plan.steps = [
            StepRow(step_number=2, step_name="b", description="", step_type="validation", kind="validate"),
            StepRow(
                step_number=1, step_name="a", description="", step_type="schema-change", kind="sql", depends_on=[7]
            ),
        ]
        session.add(plan)
    with store.session() as session:
        again = session.get_one(PlanRow, plan.id)
        assert (again.strategy, again.complexity) == ("rolling", "high")
        assert [(step.step_name, step.depends_on, step.params) for step in again.steps] == [
            ("a", [7], {}),
            ("b", [], {}),
        ]
        session.delete(again)
    with store.session() as session:
        assert session.scalars(select(StepRow)).all() == []


def test_ids_are_short_and_different(store: Store) -> None:
    from segue.store.ids import new_id

    made = {new_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(len(one) == 24 and one.isalnum() and one[0].isalpha() and one == one.lower() for one in made)


def test_importing_the_store_is_cheap() -> None:
    import subprocess
    import sys

    script = "import sys, segue.store; sys.exit(any(name in sys.modules for name in ('sqlalchemy', 'psycopg')))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
