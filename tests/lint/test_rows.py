"""Every hazard of the list of known ones is a rule's, or somebody has said why not."""

from __future__ import annotations

from pathlib import Path

import yaml

from segue.lint.rules import rules

REASONS = yaml.safe_load((Path(__file__).parent / "NOT_RULES.yaml").read_text("utf-8"))


def test_every_row_is_a_rules_or_has_a_reason() -> None:
    ruled = {row for rule in rules().values() for row in rule.rows}
    assert ruled | set(REASONS) == set(range(1, 89))
    assert all(reason for reason in REASONS.values())
