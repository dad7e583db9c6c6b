"""`segue change` as a process: start, watch, set, cut over, repair what does not fit, take back, clean up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fix_process import Segue
from fix_shops import Shops
from fix_targets import rows, run_sql, until
from sqlalchemy import select, update

from segue import clock
from segue.engine.events import nobody
from segue.errors import Blocked, InvalidInput, NotFound, SegueError, StepFailed, UsageError
from segue.services import changes, environments, executions, explanations, plans, tuning, watching
from segue.services.beginnings import Options
from segue.services.changes import Asked
from segue.services.plans import Checked
from segue.store.tables.online import OnlineChangeRow, ShadowTableRow

WIDEN = "ALTER id TYPE bigint"


@pytest.fixture
def shop(shops: Shops, database: str) -> Shops:
    """Give a store whose environment "shop" has a few hundred orders, two of them with the same code."""
    run_sql(
        database,
        "CREATE TABLE orders (id int PRIMARY KEY, code text, note text)",
        "INSERT INTO orders SELECT i, 'c' || (i % 299), 'note ' || i FROM generate_series(1, 300) i",
    )
    shops.open("shop", database)
    return shops


def columns(database: str) -> list[str]:
    query = (
        "SELECT attname || ' ' || atttypid::regtype FROM pg_attribute "
        "WHERE attrelid = 'orders'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    return [name for (name,) in rows(database, query)]


def latest(shop: Shops) -> dict[str, Any]:
    with shop.store.session() as session:
        found = changes.listed(session)
        return found[0] if found else {"phase": None, "waiting": None}


class Started:
    """A change that goes on in a thread, as one does in a command."""

    def __init__(self, shop: Shops, *alter: str, **fields: Any) -> None:
        self._shop = shop
        self._outcome: executions.Outcome | BaseException | None = None
        asked = Asked("orders", alter, fields={"strategy": "shadow-table", **fields})
        self._thread = threading.Thread(target=self._go, args=(asked,), daemon=True)
        self._thread.start()

    def _go(self, asked: Asked) -> None:
        shop = self._shop
        try:
            self._outcome = changes.start(shop.store, shop.settings, shop.parts, asked, "shop", Options(), nobody)
        except BaseException as error:  # handed to the test
            self._outcome = error

    def waiting(self) -> Started:
        """Return once its swap waits."""
        until(lambda: latest(self._shop)["waiting"] or self._outcome, 60)
        assert self._outcome is None, self._outcome
        return self

    def ended(self) -> dict[str, Any]:
        """Return the change once it has ended well."""
        self._thread.join(60)
        assert isinstance(self._outcome, executions.Outcome), self._outcome
        return latest(self._shop)


def asked(shop: Shops, *words: str, **more: Any) -> Checked:
    with shop.store.session() as session:
        return changes.planned(session, shop.parts, Asked(words[0], words[1:], **more), "shop")


def test_a_change_is_done_again_once_another_has_changed_it_back(segue: Segue, shop: Shops, database: str) -> None:
    for alter, kind in ((WIDEN, "id bigint"), ("ALTER id TYPE int", "id integer"), (WIDEN, "id bigint")):
        change = ("change", "start", "orders", alter, "--env", "shop", "--strategy", "shadow-table")
        segue(*change).expect(0)
        assert "is complete" in segue(*change).expect(0).stderr
        assert columns(database)[0] == kind
        segue("change", "cleanup", "orders", "--env", "shop", "--now", "--yes").expect(0)


def test_a_change_that_is_to_spare_the_application_runs_with_all_its_defaults(shop: Shops, database: str) -> None:
    options = Options(tuning={"latency_budget": "p95=5s", "latency_probe": "SELECT 1"})
    asked = Asked("orders", [WIDEN], fields={"strategy": "shadow-table"})
    changes.start(shop.store, shop.settings, shop.parts, asked, "shop", options, nobody)
    assert columns(database)[0] == "id bigint"


# -- asking


@pytest.mark.parametrize(
    "words",
    [
        ("orders", "ALTER TABLE orders ALTER id TYPE bigint"),
        ("ALTER TABLE orders ALTER id TYPE bigint",),
        ("alter table if exists orders ALTER id TYPE bigint;",),
    ],
)
def test_a_whole_alter_table_asks_the_same_as_its_commands(shop: Shops, words: tuple[str, ...]) -> None:
    assert asked(shop, *words).digest == asked(shop, "orders", WIDEN).digest


def test_several_alters_are_one_copy_and_several_tables_one_swap(shop: Shops) -> None:
    one = asked(shop, "orders", WIDEN, "ADD x int").plan.steps[0]
    assert one.alter == [WIDEN, "ADD x int"]  # type: ignore[attr-defined]
    two = asked(shop, "ALTER TABLE orders DROP note; ALTER TABLE items ADD y int").plan.steps[0]
    assert [table.table for table in two.tables] == ["orders", "items"]  # type: ignore[attr-defined]


def test_the_same_change_asked_otherwise_is_the_next_version(shop: Shops) -> None:
    first = asked(shop, "orders", WIDEN)
    with shop.store.session() as session:
        plans.add(session, shop.settings, first)
    assert asked(shop, "orders", WIDEN).plan.version == "1.0.0"
    other = asked(shop, "orders", WIDEN, fields={"workers": 2})
    assert (other.plan.plan, other.plan.version) == (first.plan.plan, "1.0.1")
    with shop.store.session() as session:
        plans.add(session, shop.settings, other)
    assert asked(shop, "orders", WIDEN, fields={"workers": 2}).plan.version == "1.0.1"


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("orders", "ALTER id TYPE"), InvalidInput, "ALTER TABLE orders ALTER id TYPE: syntax error"),
        (("order", "ADD x int"), InvalidInput, '"order" is no table as SQL writes it: syntax error'),
        (("orders", "CREATE INDEX i ON orders (id)"), InvalidInput, "an online change is an ALTER TABLE"),
        (("ALTER TABLE orders RENAME code TO c",), InvalidInput, "a rename needs no online change"),
        (("ALTER TABLE ONLY orders ADD x int",), InvalidInput, "leave out ONLY"),
        (("orders ADD x int",), UsageError, '"orders ADD x int" is no table'),
        (("orders",), InvalidInput, "nothing is to change"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_stored(
    shop: Shops, words: tuple[str, ...], error: type[SegueError], said: str
) -> None:
    with pytest.raises(error, match=said):
        changes.start(shop.store, shop.settings, shop.parts, Asked(words[0], words[1:]), "shop", Options(), nobody)
    with shop.store.session() as session:
        assert plans.listed(session) == []


def test_a_dry_run_prints_a_plan_file_and_stores_nothing(segue: Segue, shop: Shops) -> None:
    printed = segue("change", "start", "orders", WIDEN, "--env", "shop", "--workers", "2", "--dry-run").expect(0)
    checked = plans.check(printed.stdout, "<stdin>", shop.parts)
    assert checked.digest == asked(shop, "orders", WIDEN, fields={"workers": 2}).digest
    with shop.store.session() as session:
        assert plans.listed(session) == []


def test_a_change_is_explained_by_what_it_does_and_not_by_its_locks(shop: Shops) -> None:
    (step,) = explanations.explain(asked(shop, "orders", WIDEN), shop.parts).steps
    assert step.sql == ""
    assert f"table `orders`, alter `{WIDEN}`" in step.does
    assert step.undone.startswith("By itself, with all that was written since")


# -- running


def test_a_change_of_a_moment_is_done_in_place_and_taken_back(segue: Segue, shop: Shops, database: str) -> None:
    done = segue("change", "start", "orders", "ADD x int", "--env", "shop", "--json").expect(0).json
    change = done["steps"][0]["change"]
    assert (change["strategy"], change["type"], change["column"]) == ("native-online", "add-column", "x")
    assert (change["phase"], change["percent"]) == ("completed", 100.0)
    shop.rollback()
    assert latest(shop)["phase"] == "rolled-back"
    assert columns(database) == ["id integer", "code text", "note text"]


def test_a_rule_in_place_that_rows_break_is_taken_back_at_once_and_may_be_tried_again(
    shop: Shops, database: str
) -> None:
    # The rows cannot be counted beforehand: the column comes with the rule.
    wanted = Asked("orders", ["ADD n int", "ADD CONSTRAINT given CHECK (n > 0) NOT VALID", "ADD CHECK (n IS NOT NULL)"])

    def start() -> executions.Outcome:
        return changes.start(shop.store, shop.settings, shop.parts, wanted, "shop", Options(), nobody)

    with pytest.raises(StepFailed, match="is violated by some row"):
        start()
    rules = "SELECT conname FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype = 'c' ORDER BY 1"
    assert rows(database, rules) == [("given",)]
    assert shop.noted()[-1].endswith("the application meets no new rule")
    run_sql(database, "UPDATE orders SET n = 1")
    assert shop.status(start().execution)["status"] == "completed"
    assert rows(database, rules) == [("given",), ("orders_check",)]
    shop.rollback()
    assert rows(database, rules) == []


def test_a_postponed_swap_waits_until_it_is_cut_over(segue: Segue, shop: Shops, database: str) -> None:
    started = Started(shop, WIDEN, cutover="postponed", retention_days=3).waiting()
    status = segue("status").expect(0).stdout
    assert "swapping 98 %" in status
    assert "waits for `segue change cutover`" in status
    segue("change", "cutover", "orders").expect(0)
    change = started.ended()
    assert (change["phase"], change["percent"], change["rows_copied"]) == ("reversible", 100.0, 300)
    assert change["metrics"]["swap_lock_ms"] > 0
    assert [(one["sync"], one["active"], one["retention_days"]) for one in change["shadows"]] == [("synced", True, 3)]
    assert columns(database)[0] == "id bigint"
    shop.rollback()
    assert (latest(shop)["phase"], latest(shop)["shadows"][0]["active"]) == ("rolled-back", False)
    assert columns(database)[0] == "id integer"


def test_what_is_set_stands_beside_the_throttles_limits(segue: Segue, shop: Shops) -> None:
    started = Started(shop, WIDEN, cutover="postponed").waiting()
    shown = segue("change", "set", "orders", "--chunk-seconds", "0.1", "--workers", "2").expect(0).stdout
    assert shown == "chunk-seconds: 0.1\n"
    with shop.store.session() as session:
        row = watching.find(session, None)
        tuning.tune(session, row, {"lock_waiters": "none"}, actor="tester", reset=True)
        assert row.tuning == {"chunk_seconds": 0.1, "lock_waiters": "none"}
        assert tuning.describe(row, None, driven=True)["tuning"] == {"lock_waiters": "none"}
    changes.set_(shop.store, shop.settings, None, {"chunk_seconds": None, "cutover": "now"})
    assert started.ended()["set"] == {"cutover": "now"}
    with pytest.raises(Blocked, match="nothing left to set"):
        changes.set_(shop.store, shop.settings, None, {"cutover": "postponed"})
    with pytest.raises(Blocked, match="has swapped already"):
        changes.cut_over(shop.store, shop.settings, "orders")


def test_a_swap_waits_for_its_window(shop: Shops) -> None:
    now = clock.now()
    closed, opened = (
        f"daily {moment:%H:%M}-{moment + timedelta(minutes=9):%H:%M} UTC"
        for moment in (now + timedelta(hours=3), now - timedelta(minutes=4))
    )
    started = Started(shop, WIDEN, cutover="postponed").waiting()
    changes.set_(shop.store, shop.settings, None, {"window": closed})
    with shop.store.session() as session:
        assert changes.describe(session, changes.find(session, None))["set"] == {"window": closed}
    changes.set_(shop.store, shop.settings, None, {"window": opened})
    assert started.ended()["phase"] == "reversible"


def test_rows_that_do_not_fit_are_listed_with_repairs(segue: Segue, shop: Shops, database: str) -> None:
    started = Started(shop, "ALTER id TYPE bigint, ADD CONSTRAINT one_code UNIQUE (code)").waiting()
    said = segue("change", "conflicts", "orders").expect(1).stdout
    assert "id = 300" in said
    found = segue("change", "conflicts", "--json").expect(1).json
    assert (found["count"], found["conflicts"][0]["key"]) == (1, {"id": "300"})
    repair = found["conflicts"][0]["repairs"][0]
    assert f"\n1  {repair};\n" in said
    assert latest(shop)["conflicts"] == 1
    run_sql(database, repair)
    assert started.ended()["phase"] == "reversible"
    assert "every row" in segue("change", "conflicts").expect(0).stderr


def test_empty_alter_is_refused_as_one_that_asks_for_nothing(segue: Segue, shop: Shops) -> None:
    said = segue("change", "start", "orders", " ", "--env", "shop").expect(2).stderr
    assert 'nothing is to change in "orders"' in said


def test_a_way_back_ends_when_it_is_over_or_a_person_says_so(segue: Segue, shop: Shops, database: str) -> None:
    Started(shop, WIDEN).ended()
    with shop.store.session() as session:
        assert changes.ending(session, "shop") == []
        with pytest.raises(Blocked, match="it is open until"):
            changes.ending(session, "shop", "orders")
    # A later change that was done in place has no way back, and is not meant.
    Started(shop, "ADD x int", strategy="native-online").ended()
    cleanup = ("change", "cleanup", "orders", "--env", "shop", "--now")
    assert "nobody is here to confirm" in segue(*cleanup).expect(64).stderr
    assert segue(*cleanup, "--yes").expect(0).stdout.rstrip().endswith("public.orders  dropped")
    assert rows(database, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'segue\\_%'") == []
    with shop.store.session() as session:
        shadow = session.scalars(select(ShadowTableRow)).one()
        assert (shadow.marked_for_cleanup, shadow.is_active) == (True, False)
    with shop.store.session() as session:
        first = changes.listed(session)[1]
    assert first["phase"] == "completed"
    with pytest.raises(Blocked, match="rollback window"):
        shop.rollback(first["execution"])


def test_a_way_back_whose_retention_is_over_is_found(shop: Shops) -> None:
    Started(shop, WIDEN).ended()
    with shop.store.session() as session:
        row = changes.find(session, None)
        eight_days = (clock.now() - timedelta(days=8)).isoformat()
        row.performance_metrics = {**row.performance_metrics, "swapped_at": eight_days}
    with shop.store.session() as session:
        names = changes.ending(session, "shop")
    (done,) = changes.cleanup(shop.store, shop.settings, shop.parts, names, lambda words: None)
    assert (done.error, done.change["phase"]) == (None, "completed")
    assert len(shop.ledger("marked-for-cleanup")) == 1


def test_a_way_back_is_left_out_where_a_person_says_so(segue: Segue, shop: Shops, database: str) -> None:
    words = ("change", "start", "orders", WIDEN, "DROP note", "--env", "shop", "--no-reverse")
    assert segue(*words, "--json").expect(0).json["status"] == "completed"
    assert latest(shop)["phase"] == "completed"
    assert columns(database) == ["id bigint", "code text"]
    assert rows(database, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'segue\\_%'") == []
    with pytest.raises(Blocked, match="cannot be undone: the old table is dropped"):
        shop.rollback()
    # What was handed over keeps the word that was given.
    segue("change", "start", "orders", "DROP code", "--env", "shop", "--no-reverse", "--detach").expect(0)
    (execution,) = shop.due()
    shop.drive(execution)
    assert columns(database) == ["id bigint"]


def test_no_way_back_is_refused_in_production_and_where_only_a_plan_says_so(
    segue: Segue, shop: Shops, database: str
) -> None:
    with shop.store.session() as session:
        environments.get(session, "shop").type = "production"
    refused = segue("change", "start", "orders", WIDEN, "--env", "shop", "--no-reverse").expect(3).stderr
    assert "nothing is done that cannot be taken back" in refused
    assert "leave out --no-reverse" in refused
    with shop.store.session() as session:
        environments.get(session, "shop").type = "test"
        (plan,) = plans.listed(session)
    with pytest.raises(Blocked, match="cannot be undone: the old table is dropped"):
        shop.run(plan.plan_name)
    assert columns(database)[0] == "id integer"


def test_a_change_is_named_by_its_table_and_a_word_that_could_be_several_names_none(
    segue: Segue, shops: Shops, new_database: Callable[[], str]
) -> None:
    for env in ("north", "south"):
        shops.open(env, url := new_database())
        run_sql(url, "CREATE TABLE t (id int PRIMARY KEY)")
        changes.start(shops.store, shops.settings, shops.parts, Asked("t", ["ADD x int"]), env, Options(), nobody)
    with shops.store.session() as session:
        newest, older = changes.listed(session)
        for word in ("t", "public.t"):
            with pytest.raises(UsageError, match="there are some in 2 environments"):
                changes.find(session, word)
        found = changes.find(session, "t", "north", meant=changes.GOING)
        assert found.execution_id == older["execution"]
        assert changes.find(session, None).execution_id == newest["execution"]
        # A table's name before the beginning of an execution's id, which ends no way back.
        begin = str(older["execution"])[:6]
        assert changes.find(session, begin).execution_id == older["execution"]
        with pytest.raises(NotFound, match="there is no online change"):
            changes.ending(session, "north", begin, now=True)
        row = changes.find(session, "t", "south")
        row.table_name = f"public.{begin}"
        session.flush()
        assert changes.find(session, begin).execution_id == newest["execution"]
        session.execute(update(OnlineChangeRow).values(phase="swapping"))
    for command in (("set", "--cutover", "now"), ("cutover",)):
        refused = segue("change", *command).expect(64).stderr
        assert f'{older["execution"]}  t in "north"  swapping' in refused
        assert "--env names the environment" in refused
    assert 'the change of "t" is swapping' in segue("change", "cutover", "--env", "north").expect(3).stderr


def test_a_refused_change_leaves_nothing_behind_that_a_later_one_or_a_rollback_stumbles_over(
    segue: Segue, shop: Shops, new_database: Callable[[], str]
) -> None:
    def start(*alter: str, env: str = "shop", **fields: Any) -> executions.Outcome:
        wanted = Asked("orders", alter, fields=fields)
        return changes.start(shop.store, shop.settings, shop.parts, wanted, env, Options(), nobody)

    done = start("ADD x int").execution
    for more in ({}, {"cutover": "postponed"}):
        with pytest.raises(StepFailed, match='column "nix"'):
            start("ALTER nix TYPE bigint", **more)
    refused = segue("rollback", "--yes").expect(64).stderr
    assert "did nothing that could be taken back" in refused
    assert f"`segue rollback {done}` takes back the one before it" in refused
    # In another environment the same ALTER may be asked otherwise while it goes on here.
    shop.open("other", url := new_database())
    run_sql(url, "CREATE TABLE orders (id int PRIMARY KEY)")
    started = Started(shop, WIDEN, cutover="postponed").waiting()
    start(WIDEN, env="other", retention_days=1)
    assert start(WIDEN, env="other", retention_days=1).nothing_to_do
    with shop.store.session() as session:
        plan = changes.describe(session, changes.find(session, "orders", "other"))["plan"]
    assert plan.endswith("-other")
    changes.cut_over(shop.store, shop.settings, "orders")
    started.ended()


def test_a_change_starts_although_others_changed_the_schema_when_a_person_says_so(
    segue: Segue, shop: Shops, database: str
) -> None:
    Started(shop, "ADD x int", strategy="auto").ended()
    run_sql(database, "CREATE TABLE other (id int)")
    start = ("change", "start", "orders", "ADD y int", "--env", "shop")
    assert "run again with `--accept-drift`" in segue(*start).expect(3).stderr
    segue(*start, "--accept-drift").expect(0)


def test_looking_at_changes_that_are_not_there_says_what_to_do(segue: Segue, shop: Shops) -> None:
    assert "`segue change start" in segue("change", "list").expect(0).stderr
    assert "there is no online change yet" in segue("change", "show").expect(2).stderr
    wrong = segue("change", "start", "orders", WIDEN, "--env", "shop", "--strategy", "x").expect(64)
    assert "is not one of" in wrong.stderr


def test_a_second_change_of_a_table_is_busy_until_the_first_has_ended(segue: Segue, shop: Shops, database: str) -> None:
    first = ("change", "start", "orders", WIDEN, "--env", "shop", "--strategy", "shadow-table")
    second = ("change", "start", "orders", "ADD x int", "--env", "shop", "--strategy", "shadow-table")
    segue(*first).expect(0)
    refused = segue(*second).expect(75).stderr
    assert "another online change has the tables" in refused
    assert "`segue change cleanup" in refused
    segue("change", "cleanup", "orders", "--env", "shop", "--now", "--yes").expect(0)
    segue(*second).expect(0)
    assert columns(database)[-1] == "x integer"
