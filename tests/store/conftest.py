"""A store of each test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from segue.settings import Settings
from segue.store import Store, open_store
from segue.store.tables.plans import PlanRow


@pytest.fixture
def settings(store_url: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, store=store_url, key=None, user="ada")


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with open_store(settings) as opened:
        yield opened


@pytest.fixture
def new_plan() -> Callable[..., PlanRow]:
    """Give a maker of plans; what is not said is some valid value."""

    def make(**given: Any) -> PlanRow:
        values: dict[str, Any] = {
            "plan_name": "customers-full-name",
            "version": "1.0.0",
            "description": "one column for the whole name",
            "target_schema": "public",
            "migration_phase": "migration",
            "strategy": "online",
            "complexity": "low",
            "risk_level": "low",
            "estimated_duration": 1,
            "rollback_plan": "each step's reverse",
            "created_by": "ada",
            "plan_hash": "0" * 64,
            "document": {},
        }
        return PlanRow(**{**values, **given})

    return make
