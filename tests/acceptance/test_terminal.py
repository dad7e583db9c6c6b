"""What comes from others, names, reasons, errors of a server, does not act on the terminal that shows it."""

from __future__ import annotations

import json
import re

from fix_process import Segue
from fix_team import Team

HOSTILE = "a\\e[2J\\e]0;title\\a\\e[8mb\\N\\u202Ec"
PLAN = f"""\
plan: add-note
version: 1.0.0
description: "{HOSTILE}"
steps:
  - name: add
    kind: sql
    approval: true
    sql: "ALTER TABLE customers ADD COLUMN note text /* {HOSTILE} */"
    reverse: ALTER TABLE customers DROP COLUMN note
  - name: boom
    kind: sql
    needs: [add]
    sql: |
      DO $$ BEGIN RAISE EXCEPTION E'x\\x1b[2J password=hunter2\\n2026-01-01 00:00:00Z  forged'; END $$
    reverse: SELECT 1
"""
ACTS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def test_terminal_is_not_acted_on_by_what_others_wrote(team: Team, segue: Segue) -> None:
    team.add(PLAN)
    team.approved()
    team.approve("--step", "add", "--reason", "fine\x1b[2J\nforged")
    team.run(2)
    said = [
        segue(*words)
        for words in (
            ("plan", "show", "add-note"),
            ("approve", "add-note", "--list"),
            ("logs",),
            ("status", "--json"),
        )
    ]
    for outcome in said:
        assert not ACTS.search(outcome.stdout + outcome.stderr)
    assert not re.search(r"^(2026-01-01|forged)", said[1].stdout + said[2].stdout, re.MULTILINE)
    assert not any("hunter2" in outcome.stdout for outcome in said[2:])
    assert json.loads(said[-1].stdout)["plan"] == "add-note"
