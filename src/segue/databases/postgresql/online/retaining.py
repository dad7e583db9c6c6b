"""Looks after the replication slot of a change that nobody drives: the server keeps its log back for it meanwhile."""

from __future__ import annotations

import psycopg

from segue.databases.postgresql.connection import open_session
from segue.databases.postgresql.errors import explain, place
from segue.databases.postgresql.online.blueprint import Blueprint
from segue.databases.postgresql.online.slots import look_at, slot_name
from segue.model.lifecycles import OnlineChangePhase as Phase
from segue.model.online import Retained

#: In these a change follows the application.
FOLLOWING = (Phase.CAPTURING, Phase.COPYING_DATA, Phase.DRAINING, Phase.VERIFYING, Phase.SWAPPING)


def retained(url: str, execution: str, step: str, limit: int) -> Retained | None:
    """Return what is kept back for a change; with more than `limit` bytes its slot is dropped.

    None where nothing is kept back, or somebody reads it: who reads looks after it.
    """
    try:
        with open_session(url, application="segue-look") as connection:
            row = connection.execute("select pg_catalog.to_regclass('segue.change') is not null").fetchone()
            if row is None or not row[0]:
                return None
            found = connection.execute(
                "select blueprint from segue.change where execution = %s and step = %s and phase = any (%s)",
                [execution, step, [phase.value for phase in FOLLOWING]],
            ).fetchone()
            if found is None or found[0].get("strategy") != "ghost":
                return None
            drawn = Blueprint.model_validate(found[0])
            seen = look_at(connection, drawn)
            if seen.pid is not None:
                return None
            if seen.plugin is None or seen.status == "lost":
                return Retained(0, 0, limit, given_up=True)
            kept = Retained(seen.retained or 0, seen.behind or 0, limit, seen.safe if seen.keep > 0 else None)
            if kept.bytes <= limit:
                return kept
            try:
                connection.execute("select pg_catalog.pg_drop_replication_slot(%s)", [slot_name(drawn)])
            except (psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                return None  # somebody goes on with the change at this moment
            return Retained(kept.bytes, kept.behind, limit, given_up=True)
    except psycopg.Error as error:
        raise explain(error, place(url)) from error
