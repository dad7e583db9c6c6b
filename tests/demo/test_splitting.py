"""`segue demo --scenario split`: a monolith becomes four services, and nothing is lost."""

from __future__ import annotations

import json

import pytest

from segue.demo import show
from segue.demo.splitting import SplitShow


@pytest.mark.timeout(400)
@pytest.mark.parametrize("scale", [0.005, pytest.param(0.05, marks=pytest.mark.slow)])
def test_a_monolith_is_split_under_traffic_and_nothing_is_lost(
    capsys: pytest.CaptureFixture[str], scale: float
) -> None:
    code = show.demo(scale=scale, json_output=True, rate=40, alone=1.0, scene=SplitShow)
    report = json.loads(capsys.readouterr().out)
    assert code == 0, report
    assert report["tables"] > 52
    traffic = report["traffic"]
    assert {name: traffic[name] for name in ("lost", "duplicated", "wrong", "errors")} == {
        "lost": 0,
        "duplicated": 0,
        "wrong": 0,
        "errors": 0,
    }
    assert traffic["fenced"] > 0
    assert {name: one["equal"] for name, one in report["services"].items()} == dict.fromkeys(
        ("customer", "catalogue", "payment", "analytics"), True
    )
    assert len(report["invariants"]) >= 11
    assert set(report["invariants"].values()) == {True}
    assert {"customer reads tax_rates", "customer reads settings", "catalogue reads tax_rates"} <= set(
        report["invariants"]
    )
    assert report["reverse"]["ok"] is True
    assert [phase["name"] for phase in report["phases"]] == [
        "analytics",
        "payment",
        "catalogue",
        "customer",
        "payment reverse",
        "payment again",
    ]
