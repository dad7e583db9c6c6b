"""Rows that the new definition refuses: found before an index is built, listed, and what could be done about each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from segue.databases.postgresql import parse
from segue.databases.postgresql.online.blueprint import Place
from segue.databases.postgresql.online.drain import telling
from segue.databases.postgresql.online.refusing import MOST_CONFLICTS, Sieve, too_many
from segue.databases.postgresql.online.wording import Listing, Wording, comma
from segue.databases.postgresql.relations import descendants, strings
from segue.engine import journal
from segue.model.online import Conflict
from segue.ports import BACKWARD, FORWARD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import psycopg

    from segue.databases.postgresql.online.blueprint import Blueprint, Flow, Index, Member
    from segue.databases.postgresql.online.site import Site

    Connection = psycopg.Connection[tuple[Any, ...]]

_LISTED = """
select c.member, c.direction, c.key, c.sqlstate, c.message, c.rule, c.row, c.seen_at
from segue.conflict as c
where c.change = %(change)s and c.direction = coalesce(%(direction)s, c.direction)
order by c.member, c.direction, c.seen_at, c.key
limit %(limit)s
"""

# Whoever sorts a large table should not do it in four megabytes.
_SORTING = "set local work_mem = '128MB'; set local enable_seqscan = on"

# Of a type that a column may be given when it must not be NULL.
_PLAIN_VALUES = (
    (("smallint", "integer", "bigint", "numeric", "real", "double precision"), "0"),
    (("text", "character varying", "character"), "''"),
    (("boolean",), "false"),
    (("timestamp", "date"), "now()"),
    (("jsonb", "json"), "'{}'"),
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key of a destination: its columns, and the table and columns that they refer to.

    `full`: either all of its columns are NULL, or none. `collations`: those of the columns that are referred to.
    """

    name: str
    columns: tuple[str, ...]
    table: Place
    referenced: tuple[str, ...]
    full: bool = False
    collations: tuple[str | None, ...] = ()

    def same(self, mine: Sequence[sql.Composable]) -> sql.Composed:
        """Return the condition that values are those of a row that is called segue_far."""
        collations = self.collations or (None,) * len(self.referenced)
        theirs = [
            sql.Identifier("segue_far", name) + sql.SQL(f" collate {collation}" if collation else "")
            for name, collation in zip(self.referenced, collations, strict=True)
        ]
        return sql.SQL(" and ").join(
            sql.SQL("{} = {}").format(here, there) for here, there in zip(mine, theirs, strict=True)
        )

    def fits(self, mine: Sequence[sql.Composable]) -> sql.Composed:
        """Return the condition that these values refer to a row, or to none."""
        parts = comma(mine)
        none = sql.SQL("pg_catalog.num_nulls({}) = {}") if self.full else sql.SQL("pg_catalog.num_nulls({}) > {}")
        return sql.SQL("{} or exists (select from {} as segue_far where {})").format(
            none.format(parts, sql.SQL(str(len(mine) if self.full else 0))),
            self.table.sql,
            self.same(mine),
        )


def count(connection: Connection, drawn: Blueprint, *, member: int | None = None, direction: str | None = None) -> int:
    """Return how many rows of a change are refused, of all its members and directions or of some."""
    row = connection.execute(
        "select count(*) from segue.conflict where change = %s and member = coalesce(%s, member) "
        "and direction = coalesce(%s, direction)",
        [drawn.id, member, direction],
    ).fetchone()
    return int(row[0]) if row else 0


def listed(
    connection: Connection, drawn: Blueprint, limit: int = 100, *, direction: str | None = None
) -> list[Conflict]:
    """Return refused rows of a change, in one direction or in both, those that have been seen for the longest first."""
    found = []
    for number, way, key, state, message, rule, values, seen in connection.execute(
        _LISTED.encode(), {"change": drawn.id, "direction": direction, "limit": limit}
    ):
        flow = _flow(_member(drawn, number), way)
        found.append(
            Conflict(
                table=str(_member(drawn, number).table),
                key={column.name: text for column, text in zip(flow.key, key, strict=True)},
                sqlstate=state,
                message=message,
                rule=rule,
                row=values or {},
                seen_at=seen,
                direction=way,
            )
        )
    return found


def _member(drawn: Blueprint, number: int) -> Member:
    return next(member for member in drawn.members if member.number == number)


def _flow(member: Member, direction: str) -> Flow:
    return member.forward if direction == FORWARD else member.backward


# -- what a new rule refuses before it is there


def duplicates(
    site: Site, change_id: str, member: Member, index: Index, *, connection: Connection | None = None
) -> int:
    """Move rows out of the shadow that a unique index would refuse, but for the lowest key of each; return how many.

    To be called right before the index is built, with no drain in between; called again it changes nothing. Rows that
    were moved are conflicts, but for those that are other ones by now: they are in the log.
    """
    tree = parse.node(index.sql).index_stmt
    elements = [_element(part.index_elem) for part in tree.index_params]
    conditions = (
        [sql.SQL("({})").format(sql.SQL(_deparsed(tree.where_clause)))] if tree.HasField("where_clause") else []
    )
    if not tree.nulls_not_distinct:
        conditions += [sql.SQL("({}) is not null").format(element) for element in elements]
    flow = member.forward
    order = comma(sql.Identifier(column.into) for column in flow.key)

    def find(wording: Wording) -> sql.Composed:
        return sql.SQL(
            "select {keys}, row_number() over (partition by {elements} order by {order}) as segue_place "
            "from {into} where {conditions}"
        ).format(
            keys=_back(flow),
            elements=comma(elements),
            order=order,
            into=wording.into,
            conditions=sql.SQL(" and ").join(conditions) if conditions else sql.SQL("true"),
        )

    message = f'could not create unique index "{index.name}": another row has the same key'
    return _move(site, member, change_id, find, "segue_place > 1", ("23505", message, index.name), connection)


def excluded(site: Site, change_id: str, member: Member, index: Index, *, connection: Connection | None = None) -> int:
    """Move rows out of the shadow that a constraint with an index of its own would refuse; return how many.

    Such as EXCLUDE: which rows exclude each other only the server knows, so rows are put into a table that has the
    constraint, the lowest key first. Otherwise as `duplicates`.
    """
    session = connection or site.work
    aside = sql.Identifier("pg_temp", f"segue_{change_id}_{member.number}_apart")
    rule = _constraint(index)
    rule.deferrable = rule.initdeferred = False
    flow = member.forward
    order = comma(sql.Identifier(column.into) for column in flow.key)
    columns = sorted({column.into for column in flow.key} | set(_named(rule)))

    def find(wording: Wording) -> sql.Composed:
        session.execute(
            sql.SQL(
                "create temp table {name} on commit drop as select {columns} from {into} with no data; "
                "alter table {aside} add {rule}; "
                "insert into {aside} select {columns} from {into} order by {order} on conflict do nothing"
            ).format(
                name=sql.Identifier(f"segue_{change_id}_{member.number}_apart"),
                aside=aside,
                columns=comma(map(sql.Identifier, columns)),
                into=wording.into,
                rule=sql.SQL(_deparsed_constraint(rule)),
                order=order,
            )
        )
        return sql.SQL(
            "select {keys} from {into} as segue_into where not exists ("
            "select from {aside} as segue_apart where ({theirs}) = ({mine}))"
        ).format(
            keys=_back(flow, "segue_into"),
            into=wording.into,
            theirs=comma(sql.Identifier("segue_apart", column.into) for column in flow.key),
            mine=comma(sql.Identifier("segue_into", column.into) for column in flow.key),
            aside=aside,
        )

    state = "23P01" if "EXCLUDE" in str(index.definition) or "OVERLAPS" in str(index.definition) else "23505"
    message = f'could not create "{index.constraint}": it excludes another row'
    return _move(site, member, change_id, find, "true", (state, message, index.constraint or ""), session)


def _constraint(index: Index) -> Any:
    """Return the tree of an index's constraint, which says itself what it is over."""
    return getattr(
        parse.node(f"ALTER TABLE t ADD {index.definition}").alter_table_stmt.cmds[0].alter_table_cmd, "def"
    ).constraint


def _named(constraint: Any) -> list[str]:
    """Return the columns that a constraint is over, or that its expressions and its condition name."""
    found = [part.string.sval for part in (*constraint.keys, *constraint.including)]
    for part in constraint.exclusions:
        element = part.list.items[0].index_elem
        found += [element.name] if element.name else _columns(element.expr)
    return list(dict.fromkeys([*found, *_columns(constraint.where_clause)]))


def _columns(expression: Any) -> list[str]:
    return [strings(node.fields)[-1] for node in descendants(expression, "ColumnRef") if strings(node.fields)]


def _deparsed_constraint(constraint: Any) -> str:
    """Return a constraint's tree as SQL, without its name."""
    import postgast

    head = "ALTER TABLE t ADD "
    tree = postgast.parse(head + "CHECK (true)")
    command = tree.stmts[0].stmt.alter_table_stmt.cmds[0].alter_table_cmd
    getattr(command, "def").constraint.CopyFrom(constraint)
    return postgast.deparse(tree)[len(head) :]


def orphans(
    site: Site,
    change_id: str,
    member: Member,
    reference: Reference,
    *,
    connection: Connection | None = None,
    direction: str = FORWARD,
) -> int:
    """Move rows out of the destination that a foreign key would refuse; return how many there are.

    Rows that were moved before come back first: what they refer to may be there by now.
    """
    mine = [sql.Identifier("segue_into", name) for name in reference.columns]

    def find(wording: Wording) -> sql.Composed:
        # Written so that the server joins the tables, whatever their sizes.
        missing = sql.SQL("num_nulls({}) = 0 and not exists (select from {} as segue_far where {})").format(
            comma(mine),
            reference.table.sql,
            reference.same(mine),
        )
        keys = _back(_flow(member, direction), "segue_into")
        found = sql.SQL("select {} from {} as segue_into where {}").format(keys, wording.into, missing)
        if reference.full:
            half = sql.SQL("num_nulls({}) not in (0, {})").format(comma(mine), sql.SQL(str(len(mine))))
            found += sql.SQL(" union all select {} from {} as segue_into where {}").format(keys, wording.into, half)
        return found

    message = f'insert or update violates foreign key constraint "{reference.name}": no such row in {reference.table}'
    why = ("23503", message, reference.name)
    return _move(site, member, change_id, find, "true", why, connection, direction)


def _move(
    site: Site,
    member: Member,
    change_id: str,
    find: Callable[[Wording], sql.Composed],
    which: str,
    why: tuple[str, str, str],
    connection: Connection | None,
    direction: str = FORWARD,
) -> int:
    """Move the rows that are found out of the destination; return how many conflicts there are for the same reason."""
    connection = connection or site.work
    flow = _flow(member, direction)
    with telling(site, connection):
        wording = Wording(connection, flow)
        listing = Listing(connection, wording, f"segue_{change_id}_{member.number}_{direction}_moved")
        sieve = Sieve(connection, listing, change_id, member.number, direction)
        mine = sql.SQL("change = {} and member = {} and direction = {} and sqlstate = {} and rule = {}").format(
            *(sql.Literal(value) for value in (change_id, member.number, direction, why[0], why[2]))
        )
        with site.transaction(connection):
            connection.execute(_SORTING)
            # Those that were moved before first come back, as far as they may: the rule may be in force already.
            back = listing.give_back(
                sql.SQL("delete from segue.conflict where {} returning key, kept").format(mine),
                comma(sql.SQL(f"key[{n}]::{column.type}") for n, column in enumerate(flow.key, 1)),
            )
            if connection.execute(back).rowcount:
                connection.execute(sql.SQL(";\n").join(listing.remove()))
                sieve.sift(connection)
                connection.execute(listing.emptied)
            connection.execute(
                sql.SQL("insert into {} ({}) select {} from ({}) as segue_found where {}").format(
                    listing.table, listing.names, listing.names, find(wording), sql.SQL(which)
                )
            )
            row = connection.execute(sql.SQL("select count(*) from {}").format(listing.table)).fetchone()
            if row and row[0] > MOST_CONFLICTS:
                raise too_many()
            if row and row[0]:
                kept = _kept(wording, listing, (change_id, member.number, direction), why)
                connection.execute(sql.SQL(";\n").join([*listing.remove(), kept]))
            row = connection.execute(sql.SQL("select count(*) from segue.conflict where {}").format(mine)).fetchone()
            journal.point("online-conflicts-before-commit")
        journal.point("online-conflicts-moved")
    return int(row[0]) if row else 0


def _kept(wording: Wording, listing: Listing, whose: tuple[str, int, str], why: tuple[str, str, str]) -> sql.Composed:
    # A row that is not in the source any more, or another by now, is in the log as well.
    return sql.SQL(
        "insert into segue.conflict (change, member, direction, key, sqlstate, message, rule, row, kept) "
        "select {}, {}, {}, {}, {}, {}, {}, pg_catalog.to_jsonb(segue_row), {} from {} as segue_row where {} "
        "on conflict (change, member, direction, key) do update set sqlstate = excluded.sqlstate, "
        "message = excluded.message, rule = excluded.rule, row = excluded.row, kept = excluded.kept, "
        "seen_at = clock_timestamp()"
    ).format(
        *(sql.Literal(value) for value in whose),
        wording.key_text("segue_row"),
        *(sql.Literal(value) for value in why),
        listing.kept_row("segue_row"),
        wording.source,
        listing.holds(name="segue_row"),
    )


def _back(flow: Flow, table: str | None = None) -> sql.Composed:
    """Return the destination's key as the source has it."""
    return comma(
        sql.SQL("{}::{} as {}").format(
            sql.Identifier(table, column.into) if table else sql.Identifier(column.into),
            sql.SQL(column.type),
            sql.SQL(f"segue_k{n}"),
        )
        for n, column in enumerate(flow.key, 1)
    )


def _element(element: Any) -> sql.Composable:
    """Return what an index compares, as an expression."""
    value: sql.Composable = sql.Identifier(element.name) if element.name else sql.SQL(f"({_deparsed(element.expr)})")
    if element.collation:
        value = value + sql.SQL(" collate ") + sql.Identifier(*(part.string.sval for part in element.collation))
    return value


def _deparsed(expression: Any) -> str:
    """Return an expression's tree as SQL."""
    import postgast

    tree = postgast.parse("select 1")
    tree.stmts[0].stmt.select_stmt.target_list[0].res_target.val.CopyFrom(expression)
    return postgast.deparse(tree)[len("SELECT ") :]


# -- what can be done about it


def repairs(conflict: Conflict, drawn: Blueprint) -> list[str]:
    """Return statements of which a person may choose one, each by itself enough for this row, as far as can be seen."""
    member = next(member for member in drawn.members if str(member.table) == conflict.table)
    flow = _flow(member, conflict.direction)
    types = {column.name: column.type for column in flow.key}
    table = flow.source.sql
    where = sql.SQL(" and ").join(
        sql.SQL("{} = {}::{}").format(sql.Identifier(name), sql.Literal(text), sql.SQL(types.get(name, "text")))
        for name, text in conflict.key.items()
    )
    found = [
        sql.SQL("update {} set {} = {} where {}").format(table, sql.Identifier(name), sql.SQL(value), where)
        for name, value in _remedies(conflict, member, flow)
        if value != "NULL" or name not in _required(member)
    ]
    if conflict.direction == BACKWARD:
        # It is a good row of the table as it is now: only where the way back is wanted more than the row.
        return [statement.as_string(None) for statement in found]
    return [
        statement.as_string(None) for statement in (*found, sql.SQL("delete from {} where {}").format(table, where))
    ]


def _remedies(conflict: Conflict, member: Member, flow: Flow) -> list[tuple[str, str]]:
    """Return columns of the source and what could be written there."""
    columns = {column.into: column for column in flow.columns if column.into in conflict.row}
    key = {column.name for column in flow.key}
    if conflict.sqlstate == "23502" and conflict.rule in columns:
        kind = columns[conflict.rule].type
        return [(conflict.rule, value) for kinds, value in _PLAIN_VALUES if kind.startswith(kinds)][:1]
    if conflict.sqlstate == "23505":
        names = [name for name in _indexed(member, conflict.rule) if name in columns and name not in key]
        return [remedy for name in names for remedy in _different(name, columns[name].type, flow)]
    if conflict.sqlstate == "23P01":
        names = [name for name in _indexed(member, conflict.rule) if name in columns and name not in key]
        return [remedy for name in names for remedy in _apart(name, columns[name].type)]
    if conflict.sqlstate == "23503":
        return [(name, "NULL") for name in columns if name in _referring(member, conflict) and name not in key]
    found = []
    for name, column in columns.items():
        text = conflict.row[name]
        if name in key or text is None:
            continue
        if f'"{text}"' in conflict.message or f'"{name}"' in conflict.message or column.type in conflict.message:
            found += _shorter(name, column.type) if conflict.sqlstate == "22001" else []
            found.append((name, "NULL"))
    return found


def _referring(member: Member, conflict: Conflict) -> list[str]:
    """Return the columns of the foreign key that refuses a row."""
    hanging = member.dependents
    for each in (*hanging.get("foreign_keys_added", ()), *hanging.get("foreign_keys", ())):
        if each["name"] == conflict.rule and each.get("outgoing", True):
            return list(each["columns"])
    return [name for name in conflict.row if f"({name})=" in conflict.message]


def _required(member: Member) -> set[str]:
    """Return the columns that must not be NULL, on either side."""
    sides = (*member.definition.get("columns", ()), *member.drawn.get("columns", ()))
    return {column["name"] for column in sides if column["not_null"]}


def _indexed(member: Member, rule: str) -> Sequence[str]:
    for index in member.indexes:
        if rule in (index.name, index.constraint) and index.sql:
            return [
                part.index_elem.name for part in parse.node(index.sql).index_stmt.index_params if part.index_elem.name
            ]
        if rule == index.constraint and index.definition:
            constraint = _constraint(index)
            given = [part.list.items[0].index_elem.name for part in constraint.exclusions]
            return [part.string.sval for part in constraint.keys] + [name for name in given if name]
    return ()


def _different(name: str, kind: str, flow: Flow) -> list[tuple[str, str]]:
    quoted = _quoted(name)
    if kind.startswith(("text", "character varying")):
        unique = " || '-' || ".join(_quoted(column.name) for column in flow.key)
        return [(name, f"{quoted} || '-' || {unique}"), (name, "NULL")]
    return [(name, "NULL")]


def _apart(name: str, kind: str) -> list[tuple[str, str]]:
    """Return what excludes no other row: no value, or a range of nothing."""
    return [*([(name, "'empty'")] if kind.endswith("range") else []), (name, "NULL")]


def _shorter(name: str, kind: str) -> list[tuple[str, str]]:
    size = kind.rpartition("(")[2].rstrip(")")
    return [(name, f"left({_quoted(name)}, {size})")] if size.isdigit() else []


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
