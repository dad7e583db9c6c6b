"""Lists the rows that a change refuses, each with statements of which a person may choose one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.online import conflicts
from segue.databases.postgresql.online.blueprint import Blueprint

if TYPE_CHECKING:
    from segue.model.online import Conflict


def conflicts_of(url: str, execution: str, step: str, limit: int) -> tuple[int, list[tuple[Conflict, list[str]]]]:
    """Return how many rows a step's change refuses, and some of them with what could be done about each."""
    try:
        # Not as sessions of a lease are called: whoever takes that ends those.
        with open_session(url, application="segue-look") as connection:
            there = connection.execute("select pg_catalog.to_regclass('segue.change') is not null").fetchone()
            if not (there and there[0]):
                return 0, []
            row = connection.execute(
                "select blueprint from segue.change where execution = %s and step = %s", [execution, step]
            ).fetchone()
            if row is None:
                return 0, []
            drawn = Blueprint.model_validate(row[0])
            found = conflicts.listed(connection, drawn, limit)
            offers = [(conflict, conflicts.repairs(conflict, drawn)) for conflict in found]
            return conflicts.count(connection, drawn), offers
    except psycopg.Error as error:
        raise explain(error, place(url)) from error
