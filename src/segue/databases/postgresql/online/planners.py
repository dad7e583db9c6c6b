"""Asks the planner how it would run the application's most frequent statements on the new tables."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue.databases.postgresql.online import facts
from segue.databases.postgresql.online.blueprint import Place
from segue.databases.postgresql.online.facts import ident, literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from segue.databases.postgresql.online.blueprint import Blueprint
    from segue.databases.postgresql.online.site import Site

    Connection = psycopg.Connection[Any]

#: How many statements are looked at, by the time that they take altogether.
MOST = 50
#: A plan is worse when the planner thinks that it costs this many times as much, and it is of other parts.
WORSE = 1.5
#: Cheaper than a handful of pages is never worth a word.
CHEAP = 100.0
#: A statement that takes longer to plan than this is left out.
PLANNING = "2s"
SHOWN = 160
#: What stands in statements that Segue itself has sent: names of its own, or the catalogue's.
_OURS = r"\ysegue(_[a-z][a-z0-9]{7}_(new|old))?\y|\ypg_catalog\."
_PREPARED = "segue_planned"
_QUERIES = ("select_stmt", "insert_stmt", "update_stmt", "delete_stmt", "merge_stmt")


def slower(site: Site, blueprint: Blueprint) -> list[str]:
    """Return statements that would be planned worse on the shadows than on the originals; empty where unknown.

    Known are those that `pg_stat_statements` shows to Segue's role, most of them with parameters for their constants:
    they are planned whatever those are.
    """
    connection = site.look
    names = {}
    for member in blueprint.members:
        new = {relation.place.name: relation.place for relation in member.new}
        for relation in member.old:
            if relation.place.name in new:
                names[str(relation.place)] = str(new[relation.place.name])
    found = []
    tables = [relation.place.name for member in blueprint.members for relation in member.old]
    for query in _statements(connection, tables):
        both = _both(connection, query, names, explains=site.major >= 16)
        if both is None:
            continue
        before, after = both
        was, now = _cost(before), _cost(after)
        if now > max(was * WORSE, CHEAP) and _kinds(before) != _kinds(after):
            shown = " ".join(query.split())
            shown = shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…"
            times = f"about {now / max(was, 0.01):,.1f} times the cost"
            found.append(f"{shown}: {_scans(after)} instead of {_scans(before)}, {times}")
    return found


def _statements(connection: Connection, tables: Sequence[str]) -> list[str]:
    """Return the statements that took the most time in this database and may be about tables; none of Segue's own."""
    try:
        with connection.transaction():
            home = _home(connection)
            if home is None:
                return []
            connection.execute(sql.SQL("set local statement_timeout = {}").format(literal(PLANNING)))
            seen = connection.execute(
                sql.SQL(
                    "select s.query from {}.pg_stat_statements as s "
                    "inner join pg_catalog.pg_database as d on s.dbid = d.oid and d.datname = current_database() "
                    "where s.query is not null and s.query !~ {} and exists ("
                    "select from unnest({}::text[]) as t (name) where strpos(lower(s.query), lower(t.name)) > 0) "
                    "group by s.query order by sum(s.total_exec_time) desc limit {}"
                ).format(ident(home), literal(_OURS), literal(list(tables)), literal(MOST))
            ).fetchall()
    except psycopg.Error:
        # Not loaded by the server, or not for this role's eyes.
        if connection.closed:
            raise
        return []
    return [query for (query,) in seen]


def _home(connection: Connection) -> str | None:
    """Return the schema of the view; it is the extension's, or one that an administrator gives instead of it."""
    row = connection.execute(
        "select n.nspname from pg_catalog.pg_class as c "
        "inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid "
        "where c.relname = 'pg_stat_statements' and c.relkind = 'v' "
        "order by not pg_catalog.has_table_privilege(c.oid, 'SELECT'), n.nspname limit 1"
    ).fetchone()
    return None if row is None else str(row[0])


def _both(connection: Connection, query: str, names: Mapping[str, str], *, explains: bool) -> tuple[Any, Any] | None:
    """Return a statement's plan on the originals and on the shadows; None where it has nothing to do with them."""
    from postgast import PgQueryError, parse

    from segue.databases.postgresql.relations import descendants

    try:
        tree = parse(query)
    except PgQueryError:
        return None  # cut off, or of a language that is not the server's own
    if len(tree.stmts) != 1 or tree.stmts[0].stmt.WhichOneof("node") not in _QUERIES:
        return None
    given = max((node.number for node in descendants(tree.stmts[0].stmt, "ParamRef")), default=0)
    known = {}
    for node in descendants(tree.stmts[0].stmt, "RangeVar"):
        place = _resolved(connection, node.schemaname, node.relname)
        if place is not None and str(place) in names:
            known[str(Place(schema_name=node.schemaname, name=node.relname))] = names[str(place)]
    if not known:
        return None
    act = _plan if explains or not given else _plan_prepared
    before = act(connection, query, given)
    after = act(connection, facts.retarget(query, known), given)
    return None if before is None or after is None else (before, after)


def _resolved(connection: Connection, schema: str, name: str) -> Place | None:
    """Return the table that a name means; where no schema is given, in the session's path or in any one schema."""
    row = connection.execute(
        "select n.nspname, c.relname from pg_catalog.pg_class as c "
        "inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid "
        "where c.relname = %(name)s and c.relkind in ('r', 'p') and (n.nspname = %(schema)s or %(schema)s = '' "
        "and n.nspname !~ '^(pg_|segue)') order by not pg_catalog.pg_table_is_visible(c.oid), n.nspname limit 1",
        {"schema": schema, "name": name},
    ).fetchone()
    return None if row is None else Place(schema_name=row[0], name=row[1])


def _plan_prepared(connection: Connection, query: str, given: int) -> Any:
    """Plan a statement with parameters on a server that explains none: as one that is prepared."""
    try:
        connection.execute((f"PREPARE {_PREPARED} AS {query}").encode())
    except psycopg.Error:
        if connection.closed:
            raise
        return None  # of a parameter nothing shows which type it has
    try:
        values = ", ".join(["NULL"] * given)
        return _plan(connection, f"EXECUTE {_PREPARED} ({values})", 0)
    finally:
        if not connection.closed:
            connection.execute(f"DEALLOCATE {_PREPARED}".encode())


def _plan(connection: Connection, query: str, given: int) -> Any:
    """Return how the server would run a statement, or None where it cannot tell."""
    words = "EXPLAIN (FORMAT JSON, GENERIC_PLAN) " if given else "EXPLAIN (FORMAT JSON) "
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(
                sql.SQL("set local statement_timeout = {}; set local plan_cache_mode = force_generic_plan").format(
                    literal(PLANNING)
                )
            )
            row = connection.execute((words + query).encode()).fetchone()
    except psycopg.Error:
        if connection.closed:
            raise
        return None
    plans = row[0] if row else None
    if isinstance(plans, str):
        plans = json.loads(plans)
    return plans[0]["Plan"] if plans else None


def _nodes(plan: Any) -> Iterator[Any]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


def _cost(plan: Any) -> float:
    return float(plan["Total Cost"])


def _kinds(plan: Any) -> list[str]:
    return sorted(node["Node Type"] for node in _nodes(plan))


def _scans(plan: Any) -> str:
    """Return how the tables are read."""
    kinds = [node["Node Type"] for node in _nodes(plan) if "Relation Name" in node or "Index Name" in node]
    return ", ".join(dict.fromkeys(kinds)) or str(plan["Node Type"])
