"""Every hazard of the list of known ones is a rule's, or somebody has said why not."""

from __future__ import annotations

from pathlib import Path

import yaml

from segue.lint.rules import rules

REASONS = yaml.safe_load((Path(__file__).parent / "NOT_RULES.yaml").read_text("utf-8"))

#: Still to be written: a column of a domain with a constraint, a type change for which an index alone is rebuilt,
#: ALTER CONSTRAINT, constraints of domains.
PENDING = {7, 14, 33, 34}


def test_every_row_is_a_rules_or_has_a_reason() -> None:
    ruled = {row for rule in rules().values() for row in rule.rows}
    assert ruled | set(REASONS) | PENDING == set(range(1, 89))
    assert not PENDING & (ruled | set(REASONS))
    assert all(reason for reason in REASONS.values())
