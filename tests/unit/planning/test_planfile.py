"""Plan files: every problem is named with its place, and what was read can be written and read again."""

from __future__ import annotations

import json

import pytest

from segue import wiring
from segue.planning import planfile
from segue.planning.planfile import InvalidPlan, Plan

PLAN = """\
# A comment.
plan: full-name
version: 1.0.0
description: Give customers a full name
steps:
  - name: add-column
    kind: sql
    timeout: 1m
    sql: |
      -- é: a remark
      ALTER TABLE customers ADD COLUMN full_name text
    reverse: ALTER TABLE customers DROP COLUMN full_name
  - name: fill
    kind: backfill
    needs: [add-column]
    table: customers
    set: {full_name: "first || ' ' || last"}
  - name: check
    kind: validate
    needs: [fill]
    query: SELECT count(*) FROM customers WHERE full_name IS NULL
    scalar: 0
"""


def read(text: str) -> Plan:
    """Read a plan file with the real kinds and the real parser."""
    parts = wiring.parts()
    return planfile.read(text, source="p.yaml", kinds=parts.steps, database=parts.databases["postgresql"])


def problems(text: str) -> list[str]:
    """Return what is wrong with a plan file, each with line and column."""
    with pytest.raises(InvalidPlan) as caught:
        read(text)
    assert caught.value.exit_code == 2
    assert caught.value.message.startswith("p.yaml:")
    return [f"{one.line}:{one.column}: {one.message}" for one in caught.value.problems]


def test_plan_is_read() -> None:
    plan = read(PLAN)
    assert (plan.plan, plan.version, plan.strategy) == ("full-name", "1.0.0", "online")
    assert [(step.name, step.kind, step.needs) for step in plan.steps] == [
        ("add-column", "sql", []),
        ("fill", "backfill", ["add-column"]),
        ("check", "validate", ["fill"]),
    ]
    assert plan.steps[0].timeout == 60


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("timeout: 1m", "timout: 1m", ['8:5: step "add-column": unknown key "timout"; did you mean "timeout"?']),
        ("timeout: 1m", "check_after: 5", ['8:5: step "add-column": unknown key "check_after"']),
        ("timeout: 1m", "timeout: soon", ['8:14: step "add-column": "timeout": "soon" is not a duration']),
        ("timeout: 1m", "timeout: 1e300", ['8:14: step "add-column": "timeout": a duration is at most ten years']),
        ("timeout: 1m", "timeout: 1e999", ['8:14: step "add-column": "timeout": "1e999" is not a duration']),
        ("timeout: 1m", "retries: many", ['8:14: step "add-column": "retries" must be a whole number, not "many"']),
        ("timeout: 1m", "blocking: yes", ['8:15: "yes" is a boolean to some readers of YAML']),
        ("steps:", "depends_on: [other, full-name]\nsteps:", ['5:21: plan "full-name" depends on itself']),
        ("timeout: 1m", "retries: 1" + "0" * 19, ['8:14: step "add-column": "retries" must be a smaller number']),
        ("version: 1.0.0", "version: 1.0", ['3:10: "version" must be a text: put 1.0 in quotes']),
        ("version: 1.0.0", 'version: "1.0"', ['3:10: "1.0" is not a semantic version']),
        ("plan: full-name", "plan: Full Name", ['2:7: "Full Name" is not a name']),
        (
            "plan: full-name",
            "paln: full-name",
            ['2:1: unknown key "paln"; did you mean "plan"?', '2:1: missing field "plan"'],
        ),
        (
            "description:",
            "strategy: fast\ndescription:",
            ['4:11: "strategy" is "fast", but must be "online", "rolling"'],
        ),
        ("description:", "plan: again\ndescription:", ['4:1: "plan" is given twice, first in line 2']),
        ("kind: backfill", "kind: backfil", ['14:11: step "fill": "backfil" is not a kind of step; did you mean']),
        ("kind: backfill", "kind: 5", ['14:11: step "fill": "5" is not a kind of step; there is approval, backfill']),
        ("    kind: backfill\n", "", ['13:5: step "fill": missing field "kind": one of approval, backfill']),
        ("    table: customers\n", "", ['13:5: step "fill": missing field "table"']),
        (
            "name: fill",
            "name: add-column",
            ['13:11: step "add-column" is there twice, first in line 6', "15:13:", "20:13:"],
        ),
        ("[fill]", "[fil]", ['20:13: there is no step "fil" to need; did you mean "fill"?']),
        ("[fill]", "[check]", ['20:13: step "check" needs itself']),
        ("timeout: 1m", "needs: [check]", ["6:11: steps need each other in a circle"]),
        ("ADD COLUMN", "ADD COLUM", ['11:49: step "add-column": syntax error at or near "text"']),
        ("reverse: ALTER TABLE customers DROP", "reverse: ALTER TABEL customers DROP", ["12:20: "]),
        ("first || ' '", "first || ) ' '", ['17:32: step "fill": syntax error']),
        ("count(*) FROM", "count(*) FROM FROM", ['21:33: step "check": syntax error at or near "FROM"']),
        ("    reverse: ALTER TABLE customers DROP COLUMN full_name\n", "", ['6:11: step "add-column": say how']),
        ("      ALTER TABLE", "      COMMIT; ALTER TABLE", ['11:7: step "add-column": transaction control']),
        ("    scalar: 0\n", "", ['18:5: step "check": an expected result is exactly one of scalar, row, rows']),
        ("[add-column]", "add-column", ['15:12: step "fill": "needs" must be a list, not "add-column"']),
        ("scalar: 0", "scalar: !!int 0", ["22:13: tags"]),
        ("\"first || ' ' || last\"", '"first ||"', ['17:30: step "fill": syntax error']),
        ("\"first || ' ' || last\"", '"first FROM t"', ['17:10: step "fill": `set` must hold an expression for']),
        ('last"}\n', 'last"}\n    where: "a) or (b"\n', ['18:12: step "fill": `where` must hold an expression, not']),
        ("{full_name:", "{'\"Full Name\"':", ['17:10: step "fill": `set` names columns as they are, without double']),
        ("query: SELECT", "query: SELECT 1; SELECT", ['21:12: step "check": `query` must be exactly one SELECT']),
    ],
)
def test_problem_is_named_with_its_place(old: str, new: str, expected: list[str]) -> None:
    assert old in PLAN
    found = problems(PLAN.replace(old, new, 1))
    assert len(found) == len(expected), found
    for problem, beginning in zip(found, expected, strict=True):
        assert problem.startswith(beginning)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the file is empty"),
        ("- a", "1:1: a plan file is a mapping"),
        ("plan: [", "2:1: not YAML"),
        ("steps:\n\t- a", "2:1: a tab cannot indent"),
        ("plan: a: b", "1:8: not YAML: mapping values are not allowed"),
        (PLAN + "---\nplan: b\n", "23:1: a file holds one plan"),
        ("a: &a [x]\nb: *a\n", "1:1:"),
        ("[" * 100 + "]" * 100, "1:33: nested more than 32 levels deep"),
        ("plan: x" + " " * 1_000_000, "1:1: the file has"),
        ('plan: "a\\0b"', "1:1:"),
    ],
)
def test_file_that_is_no_plan_is_refused(text: str, expected: str) -> None:
    assert problems(text)[0].startswith(expected)


def test_aliases_are_never_expanded() -> None:
    bomb = "a: &a [x, x, x]\n" + "".join(
        f"{letter}: &{letter} [*{before}, *{before}, *{before}]\n"
        for before, letter in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert sum("aliases" in problem for problem in problems(bomb)) == 24


def test_several_problems_are_told_in_one_go_with_carets() -> None:
    with pytest.raises(InvalidPlan) as caught:
        read(PLAN.replace("timeout", "timout").replace("[fill]", "[fil]").replace("ADD COLUMN", "ADD COLUM"))
    assert caught.value.details[:2] == ["8 |     timout: 1m", "        ^"]
    assert len(caught.value.problems) == 2
    assert json.dumps(caught.value.as_json()["problems"])


@pytest.mark.parametrize(
    ("field", "line", "column"),
    [
        ("sql: SELECT 1 FROM FROM t", 8, 24),
        ('sql: "SELECT \\"é\\" FROM FROM t"', 8, 29),
        ("sql: 'SELECT ''é'' FROM FROM t'", 8, 29),
        ("sql: >\n      SELECT 1\n      FROM FROM t", 10, 12),
        ("sql: |\n      SELECT 1\n\n        , 2\n      FROM FROM t", 12, 12),
        ("sql: |2\n        SELECT 1\n       FROM FROM t", 10, 13),
        ("sql:\n      SELECT 1\n      FROM FROM t", 10, 12),
    ],
)
def test_place_inside_a_text_is_that_of_the_file(field: str, line: int, column: int) -> None:
    text = "plan: p\nversion: 1.0.0\ndescription: d\nsteps:\n  - name: s\n    irreversible: why\n    kind: sql\n"
    (found,) = problems(f"{text}    {field}\n")
    assert found.startswith(f"{line}:{column}: "), found


def test_comments_order_and_spelling_do_not_change_the_digest() -> None:
    other = PLAN.replace("# A comment.\n", "").replace("timeout: 1m", "timeout: 60s\n    blocking: true")
    other = other.replace("plan: full-name\nversion: 1.0.0\n", 'version: "1.0.0"\nplan: full-name\n')
    assert planfile.digest(read(PLAN)) == planfile.digest(read(other))
    assert planfile.digest(read(PLAN)) != planfile.digest(read(PLAN.replace("scalar: 0", "scalar: 1")))


def test_document_reads_back_as_the_same_plan() -> None:
    plan = read(PLAN.replace("scalar: 0", "scalar: null"))
    document = json.loads(json.dumps(planfile.document(plan)))
    again = planfile.from_document(document, wiring.parts().steps)
    assert again == plan
    assert planfile.digest(again) == planfile.digest(plan)
    assert document["steps"][2]["scalar"] is None


def test_json_is_a_plan_file_too() -> None:
    document = planfile.document(read(PLAN))
    text = json.dumps(document, indent="\t").replace("first ||", "'\\ud83c\\udfbc' || first ||")
    assert read(text).steps[1].model_dump()["set"]["full_name"].startswith("'🎼'")


def test_schema_describes_every_kind_and_allows_nothing_else() -> None:
    schema = planfile.json_schema(wiring.parts().steps)
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["additionalProperties"] is False
    steps = schema["properties"]["steps"]["items"]["oneOf"]
    assert len(steps) == len(wiring.parts().steps)
    for step in steps:
        definition = schema["$defs"][step["$ref"].removeprefix("#/$defs/")]
        assert definition["additionalProperties"] is False
        assert "validate" in definition["properties"]
        assert {"name", "kind"} <= set(definition["required"])
    # A duration may be a text or a number; "type" beside "anyOf" would forbid the text.
    assert "anyOf" in schema["$defs"]["SqlParams"]["properties"]["timeout"]
    assert '"type": "number", "anyOf"' not in json.dumps(schema)
    assert "type" not in schema["$defs"]["SqlParams"]["properties"]["timeout"]
    references = {word for word in json.dumps(schema).split('"') if word.startswith("#/$defs/")}
    assert all(reference.removeprefix("#/$defs/") in schema["$defs"] for reference in references)
