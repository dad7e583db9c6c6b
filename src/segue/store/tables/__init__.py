"""The store's tables, one module per noun; importing the package makes all of them known."""

from segue.store.tables import (
    approvals,
    bluegreen,
    compatibility,
    environments,
    evolutions,
    executions,
    health,
    incidents,
    jobs,
    ledger,
    limits,
    online,
    plans,
    recovery,
    rollback,
    suites,
    workers,
)
from segue.store.tables.columns import SCHEMA, Row

__all__ = [
    "SCHEMA",
    "Row",
    "approvals",
    "bluegreen",
    "compatibility",
    "environments",
    "evolutions",
    "executions",
    "health",
    "incidents",
    "jobs",
    "ledger",
    "limits",
    "online",
    "plans",
    "recovery",
    "rollback",
    "suites",
    "workers",
]
