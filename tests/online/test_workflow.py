"""The workflow of an online change, where something goes wrong beside the change itself."""

from __future__ import annotations

from typing import Any

import pytest
from fix_targets import Open, Run

from segue.errors import StepFailed, TargetUnreachable
from segue.model.lifecycles import OnlineChangePhase
from segue.online.workflow import Manner, Workflow
from segue.steps.online_change import OnlineChangeParams, spec_of


class Storeless(Run):
    """A run whose store is away."""

    def keep(self, **detail: Any) -> None:
        raise TargetUnreachable("the store is away")


def test_what_stops_a_phase_is_told_although_the_store_is_away(database: str, open_target: Open) -> None:
    params = OnlineChangeParams(name="change", table="t", alter=["ADD n int"])
    run: Any = Storeless(open_target(database), params)
    workflow = Workflow(run, spec_of(params), Manner())
    with (
        pytest.raises(StepFailed, match="what really happened"),
        workflow._timed(OnlineChangePhase.COPYING_DATA, tell=False),
    ):
        raise StepFailed("what really happened")
    with pytest.raises(TargetUnreachable), workflow._timed(OnlineChangePhase.COPYING_DATA, tell=False):
        pass
