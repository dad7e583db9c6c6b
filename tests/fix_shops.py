"""A store and environments, with the services on them in this process: for plans that a person would run by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fix_process import Segue

from segue import wiring
from segue.engine.events import Event, nobody
from segue.errors import TargetUnreachable
from segue.model.probe import Probe
from segue.model.vocabulary import EnvironmentType
from segue.services import environments, executions, plans, watching
from segue.services.environments import Wanted
from segue.settings import Settings
from segue.store import Store, open_store
from segue.store.tables.executions import ExecutionRow
from segue.store.tables.ledger import LedgerRow


def unseen(url: str) -> Probe:
    """Stand in for a look at the database, which takes a second to measure its traffic."""
    raise TargetUnreachable("not looked at")


class Shops:
    """A store with any number of environments, each a database of its own."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store, self.settings, self.parts = store, settings, wiring.parts()

    def open(self, name: str, url: str, **fields: Any) -> str:
        """Add an environment; return its name."""
        wanted = Wanted(**{"name": name, "type": EnvironmentType.TEST, **fields})
        with self.store.session() as session:
            environments.add(session, self.settings, wanted, url, unseen)
        return name

    def add(self, text: str) -> str:
        """Store a plan; return its name."""
        checked = plans.check(text, "plan.yaml", self.parts)
        with self.store.session() as session:
            plans.add(session, self.settings, checked)
        return checked.plan.plan

    def seen(self, plan: str) -> str:
        """Return the hash of a stored plan, as somebody who approves it has seen it."""
        with self.store.session() as session:
            return plans.get(session, plan).plan_hash

    def run(
        self, plan: str, env: str = "shop", watch: Callable[[Event], None] = nobody, **options: Any
    ) -> executions.Outcome:
        """Run a stored plan here, to its end."""
        wanted = executions.Options(**options)
        return executions.run(self.store, self.settings, self.parts, plan, env, wanted, watch)

    def hand_over(self, plan: str, env: str = "shop") -> str:
        """Leave a run to the workers; return the execution."""
        return executions.hand_over(self.store, self.settings, self.parts, plan, env).execution

    def drive(self, execution: str, drain: threading.Event | None = None) -> executions.Outcome:
        """Do with an execution what a worker would do now."""
        return executions.drive(self.store, self.settings, self.parts, execution, drain=drain)

    def due(self) -> list[str]:
        """Return what a worker would look at."""
        with self.store.session() as session:
            return executions.due(session)

    def rollback(self, execution: str | None = None) -> executions.Outcome:
        """Take an execution back, here."""
        return executions.rollback(self.store, self.settings, self.parts, execution)

    def status(self, execution: str | None = None) -> dict[str, Any]:
        """Return an execution as `segue status` would."""
        with self.store.session() as session:
            return watching.describe(session, watching.find(session, execution))

    def on(self, name: str) -> dict[str, Any]:
        """Return the only execution there is on an environment, as `segue status` would."""
        with self.store.session() as session:
            here = environments.get(session, name).id
            return watching.describe(session, session.query(ExecutionRow).filter_by(environment_id=here).one())

    def said(self, execution: str | None = None) -> list[str]:
        """Return the actions of an execution's log."""
        with self.store.session() as session:
            return [line["action"] for line in watching.logs(session, watching.find(session, execution))]

    def noted(self, execution: str | None = None) -> list[str]:
        """Return what the steps of an execution have noted."""
        with self.store.session() as session:
            lines = watching.logs(session, watching.find(session, execution))
        return [str(line["message"]) for line in lines if line["action"] == "note"]

    def ledger(self, action: str) -> list[dict[str, Any]]:
        """Return the details of the ledger's entries of a kind."""
        with self.store.session() as session:
            found = session.query(LedgerRow).filter_by(action=action).order_by(LedgerRow.id)
            return [row.detail for row in found]


@pytest.fixture
def shops(segue: Segue, store_url: str) -> Iterator[Shops]:
    """Give a store without environments; `shops.open(name, url)` adds one."""
    settings = Settings(home=segue.folder, store=store_url, key=None, user="tester")
    with open_store(settings) as store:
        yield Shops(store, settings)
