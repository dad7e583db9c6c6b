"""What no scenario has ever filled: columns of the store that are NULL in every row."""

from __future__ import annotations

import psycopg
from psycopg import sql

# What only something else fills than the demos and jobs whose stores are looked at.
_GIVEN = "a person may give it, and did not"
_WHILE = "only while it is so"
_FAILED = "only when something failed"
_WINDOW = "only with a maintenance window"
REASONS: dict[str, dict[str, str]] = {
    "environments": {
        "description": _GIVEN,
        "maintenance_window": _GIVEN,
        "promotion_order": _GIVEN,
        "max_slots": _GIVEN,
        "checked": "`segue env check` fills it",
    },
    "migration_executions": {
        "error_details": _FAILED,
        "current_step": _WHILE,
        "lease_owner": _WHILE,
        "waiting_for": _WHILE,
        "due_at": _WHILE,
        "window_until": "only where the plan limits the time of its rollback",
        "after_execution": "only in a queue behind another one",
        "fenced_at": _WINDOW,
        "fenced_until": _WINDOW,
    },
    "migration_plans": {
        "maintenance_window": _WINDOW,
        "approved_by": "only where a production environment asks for it",
        "scheduled_at": _GIVEN,
    },
    "migration_step_runs": {"error": _FAILED},
    "migration_steps": {"prisma_script": "steps that are such scripts", "custom_script": "steps that are such scripts"},
    "migration_validations": {"error_message": _FAILED},
    "online_schema_changes": {"index_name": "changes of an index", "estimated_completion": _WHILE},
    "data_migration_jobs": {"paused_at": _WHILE, "estimated_completion": _WHILE},
}


def never_filled(*stores: str) -> set[tuple[str, str]]:
    """Return the columns that are NULL in every row, of the tables that have rows in one of the stores."""
    empty: set[tuple[str, str]] = set()
    filled: set[tuple[str, str]] = set()
    for url in stores:
        with psycopg.connect(url) as connection:
            columns = connection.execute(
                "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'segue_store'"
            ).fetchall()
            for table, column in columns:
                query = sql.SQL("SELECT count(*) > 0, count({}) > 0 FROM segue_store.{}").format(
                    sql.Identifier(column), sql.Identifier(table)
                )
                rows, values = connection.execute(query).fetchone() or (False, False)
                if rows:
                    (filled if values else empty).add((table, column))
    return empty - filled


def unexplained(columns: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return those of them for which there is no reason."""
    return {(table, column) for table, column in columns if column not in REASONS.get(table, {})}
