"""Plans are kept as the lesson's rows, and `segue plan` says what a user needs to know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fix_process import Segue
from fix_servers import fresh_databases
from sqlalchemy import select
from sqlalchemy.orm import Session

from segue import wiring
from segue.embedded import Cluster
from segue.errors import Blocked, InvalidInput, NotFound
from segue.planning import planfile
from segue.services import plans
from segue.settings import Settings
from segue.store import Store, open_store
from segue.store.tables.environments import EnvironmentRow
from segue.store.tables.executions import ExecutionRow
from segue.store.tables.ledger import LedgerRow
from segue.store.tables.plans import PlanRow
from segue.store.transitions import advance

PLAN = """\
plan: full-name
version: 1.0.0
description: Give customers a full name
prerequisites: [somebody told support]
depends_on: [customers-cleaned]
rollback: {description: Take it back, window: 90m}
steps:
  - name: add-column
    kind: sql
    sql: |
      ALTER TABLE customers ADD COLUMN full_name text
    reverse: ALTER TABLE customers DROP COLUMN full_name
    validate: {query: SELECT count(full_name) FROM customers, scalar: 0}
    timeout: 1500ms
    retries: 2
  - name: fill
    kind: backfill
    needs: [add-column]
    table: customers
    set: {full_name: first || last}
    blocking: false
  - name: check
    kind: validate
    needs: [add-column, fill]
    query: SELECT count(*) FROM customers WHERE full_name IS NULL
    scalar: 0
    tolerance: 0.1
    approval: true
  - name: gone
    kind: sql
    sql: DROP TABLE old
    irreversible: nobody has read it for a year
"""


@pytest.fixture(scope="module")
def settings(server: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Give settings with a store that the tests of this module share."""
    makers = fresh_databases(server)
    yield Settings(home=tmp_path_factory.mktemp("home"), store=next(makers)(), key=None, user="ada")
    for _ in makers:
        pass


@pytest.fixture(scope="module")
def store(settings: Settings) -> Iterator[Store]:
    """Give the open store."""
    with open_store(settings) as store:
        yield store


@pytest.fixture
def session(store: Store) -> Iterator[Session]:
    """Give a session whose work is rolled back."""
    with store.session() as session:
        yield session
        session.rollback()


def checked(text: str = PLAN) -> plans.Checked:
    """Read a plan."""
    return plans.check(text, "plan.yaml", wiring.parts())


def executed(session: Session, row: PlanRow, status: str = "completed") -> ExecutionRow:
    """Record an execution of a stored plan that ended so."""
    environment = EnvironmentRow(
        name=f"on-{row.plan_name}", type="staging",
        schema_name="public", database_url="x", url_hint="x", data_size="small",
        traffic_level="low", deployment_type="manual",
    )  # fmt: skip
    session.add(environment)
    session.flush()
    execution = ExecutionRow(
        plan_id=row.id, environment_id=environment.id, execution_number=1, steps_total=4, executed_by="ada",
        execution_mode="manual", plan_hash=row.plan_hash,
    )  # fmt: skip
    session.add(execution)
    session.flush()
    for to in ("running", status):
        if to != execution.status:
            advance(session, execution, to, actor="ada")
    return execution


def test_plan_is_stored_truthfully(session: Session, settings: Settings) -> None:
    row = plans.add(session, settings, checked()).row
    assert (row.plan_name, row.version, row.status, row.created_by) == ("full-name", "1.0.0", "draft", "ada")
    assert (row.risk_level, row.complexity, row.strategy) == ("critical", "medium", "online")
    assert row.prerequisites == ["somebody told support"]
    assert row.dependencies == ["customers-cleaned"]
    assert (row.rollback_plan, row.rollback_window) == ("Take it back", 90)
    assert row.maintenance_window is None
    assert row.estimated_duration == 11
    assert row.plan_hash == planfile.digest(plans.stored(row, wiring.parts()).plan)
    assert row.source == "plan.yaml"


def test_steps_are_stored_truthfully(session: Session, settings: Settings) -> None:
    add, fill, check, gone = plans.add(session, settings, checked()).row.steps
    assert [step.step_number for step in (add, fill, check, gone)] == [1, 2, 3, 4]
    assert [step.step_type for step in (add, fill, check, gone)] == [
        "schema-change",
        "data-migration",
        "validation",
        "schema-change",
    ]
    assert add.sql_command == "ALTER TABLE customers ADD COLUMN full_name text;"
    assert add.rollback_command == "ALTER TABLE customers DROP COLUMN full_name;"
    assert (add.timeout_seconds, add.retry_count, add.can_rollback, add.depends_on) == (2, 2, True, [])
    assert add.validation_query == "SELECT count(full_name) FROM customers"
    assert add.expected_result == {"scalar": 0}
    assert fill.sql_command.startswith("UPDATE customers SET")
    assert (fill.is_blocking, fill.depends_on, fill.rollback_command) == (False, [1], None)
    assert (check.requires_approval, check.depends_on) == (True, [1, 2])
    assert check.validation_query.startswith("SELECT count(*)")
    assert check.expected_result == {"scalar": 0, "tolerance": 0.1}
    assert (gone.can_rollback, gone.rollback_command, gone.reverse) == (False, None, None)


def test_same_content_changes_nothing(session: Session, settings: Settings) -> None:
    plans.add(session, settings, checked())
    again = plans.add(session, settings, checked("# a remark\n" + PLAN))
    assert again.outcome == "unchanged"
    assert len(again.row.steps) == 4


def test_changed_draft_is_replaced_and_the_old_content_kept(store: Store, settings: Settings) -> None:
    text = PLAN.replace("plan: full-name", "plan: drafted")
    with store.session() as session:
        old = plans.add(session, settings, checked(text)).row.plan_hash
    with store.session() as session:
        added = plans.add(session, settings, checked(text.replace("name: gone", "name: dropped")))
        identity = added.row.id
        assert added.outcome == "replaced"
        assert [step.step_name for step in added.row.steps][-1] == "dropped"
    with store.session() as session:
        (detail,) = session.scalars(
            select(LedgerRow.detail).where(LedgerRow.subject_id == identity, LedgerRow.action == "replaced")
        ).all()
        assert detail["replaced"]["plan_hash"] == old
        assert detail["replaced"]["document"]["steps"][3]["name"] == "gone"


def test_executed_version_takes_no_other_content(store: Store, settings: Settings) -> None:
    first = PLAN.replace("plan: full-name", "plan: executed")
    second = first.replace("scalar: 0", "scalar: 1").replace("1.0.0", "1.1.0")
    refusal = r"executed as version 1\.0\.0 with other content"
    with store.session() as session:
        executed(session, plans.add(session, settings, checked(first)).row)
    for text in (second.replace("1.1.0", "1.0.0"), second, first.replace("scalar: 0", "scalar: 2"), first):
        with store.session() as session:
            if "1.0.0" in text and text != first:
                with pytest.raises(InvalidInput, match=refusal):
                    plans.add(session, settings, checked(text))
            else:
                assert plans.add(session, settings, checked(text)).outcome == "replaced"


@pytest.mark.parametrize("status", ["running", "paused", "failed"])
def test_plan_of_an_unfinished_execution_is_not_changed(session: Session, settings: Settings, status: str) -> None:
    executed(session, plans.add(session, settings, checked()).row, status)
    with pytest.raises(Blocked, match="can still go on") as caught:
        plans.add(session, settings, checked(PLAN.replace("1.0.0", "2.0.0")))
    assert caught.value.exit_code == 3
    assert caught.value.details[0].endswith(f"on-full-name  {status}")


def test_unknown_name_is_answered_with_the_nearest(session: Session, settings: Settings) -> None:
    plans.add(session, settings, checked())
    with pytest.raises(NotFound) as caught:
        plans.get(session, "ful-name")
    assert caught.value.hint == 'did you mean "full-name"?'


@pytest.fixture
def file(segue: Segue) -> Path:
    """Give a plan file in the folder where commands run."""
    path = segue.folder / "plan.yaml"
    path.write_text(PLAN, encoding="utf-8")
    return path


def test_validate_says_what_each_step_does(segue: Segue, file: Path) -> None:
    done = segue("plan", "validate", file, env={"SEGUE_STORE": "postgresql://nowhere.invalid/x"}).expect(0)
    assert "access exclusive" in done.stdout
    assert "predicted" in done.stdout
    assert 'warning: step "gone" destroys data (DROP TABLE)' in done.stderr


def test_validate_strict_finds_risk(segue: Segue, file: Path) -> None:
    found = segue("plan", "validate", file, "--strict", "--json").expect(1).json
    assert found["segue"] == 1
    assert found["prediction"]["risk_level"] == "critical"
    assert found["prediction"]["steps"][3]["undo"] is None


def test_wrong_file_is_refused_with_places(segue: Segue, file: Path) -> None:
    file.write_text(PLAN.replace("ADD COLUMN", "ADD COLUM").replace("retries", "retrys"), encoding="utf-8")
    done = segue("plan", "validate", file).expect(2)
    assert done.stdout == ""
    assert f'{file}:15:5: step "add-column": unknown key "retrys"; did you mean "retries"?' in done.stderr
    found = segue("plan", "add", file, "--json").expect(2).json
    assert found["error"]["problems"][0]["line"] == 15


@pytest.mark.parametrize(
    ("argument", "words"), [("none.yaml", "there is no file"), (".", "is a folder"), ("", "no plan file is named")]
)
def test_file_that_cannot_be_read_is_named(segue: Segue, argument: str, words: str) -> None:
    assert words in segue("plan", "validate", argument).expect(2).stderr


def test_plan_goes_through_the_store_and_back(segue: Segue, file: Path) -> None:
    added = segue("plan", "add", "-", "--json", text=PLAN).expect(0).json
    assert (added["outcome"], added["plan"]["source"]) == ("added", "<stdin>")
    assert "full-name" in segue("plan", "list").expect(0).stdout
    shown = segue("plan", "show", "full-name", "--json").expect(0).json["plan"]
    assert [step["name"] for step in shown["document"]["steps"]] == ["add-column", "fill", "check", "gone"]
    file.write_text(segue("plan", "show", "full-name", "--yaml").expect(0).stdout, encoding="utf-8")
    assert segue("plan", "add", file, "--json").expect(0).json["outcome"] == "unchanged"
    assert segue("plan", "show", "other").expect(2).stderr.startswith('error: there is no plan "other"')


def test_graph_is_drawn_from_file_and_store(segue: Segue, file: Path) -> None:
    assert "← add-column, fill" in segue("plan", "graph", file, env={"PYTHONIOENCODING": "utf-8"}).expect(0).stdout
    assert segue("plan", "graph", file, env={"PYTHONIOENCODING": "ascii"}).expect(0).stdout.isascii()
    segue("plan", "add", file).expect(0)
    drawn = segue("plan", "graph", "full-name", "--format", "mermaid").expect(0).stdout
    assert drawn.startswith("flowchart TD")
    graph = segue("plan", "graph", "full-name", "--json").expect(0).json["graph"]
    assert {"from": "fill", "to": "check"} in graph["edges"]
    assert graph["levels"] == [["add-column", "gone"], ["fill"], ["check"]]


def test_schema_is_a_json_schema(segue: Segue) -> None:
    schema = json.loads(segue("plan", "schema").expect(0).stdout)
    assert schema["title"] == "Segue plan"
    assert schema["required"] == ["plan", "version", "description", "steps"]
    marked = segue("plan", "schema", "--json").expect(0).json
    assert next(iter(marked.items())) == ("segue", 1)
    assert {key: value for key, value in marked.items() if key != "segue"} == schema
