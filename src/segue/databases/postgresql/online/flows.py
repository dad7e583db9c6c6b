"""Says how rows get from an old table into the new one, and back: expressions, keys, and what stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from segue.databases.postgresql.online import altering, faithful, reading, settings, writing
from segue.databases.postgresql.online.altering import Value
from segue.databases.postgresql.online.blueprint import Flow, KeyColumn, Mapped, Place
from segue.databases.postgresql.online.writing import name as quoted
from segue.errors import StepFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from segue.databases.postgresql.online.altering import Alteration, ForeignKeys
    from segue.databases.postgresql.online.reading import Column, Definition, Index, Key
    from segue.databases.postgresql.online.site import Connection
    from segue.model.online import ChangeSpec, TableChange

#: Types whose explicit cast cuts off what is too long, where an assignment refuses it: each has a function that tells.
_CUTTING = ("varchar", "bpchar", "bit", "varbit")
_WHOLE = ("smallint", "integer", "bigint")

_BASES = """
with recursive base as (
    select a.attname, a.atttypid as type, a.atttypmod as modifier, a.atttypid as wanted
    from pg_catalog.pg_attribute as a
    where a.attrelid = pg_catalog.to_regclass(%s) and a.attnum > 0 and not a.attisdropped
    union all
    select b.attname, t.typbasetype, t.typtypmod, b.wanted
    from base as b join pg_catalog.pg_type as t on t.oid = b.type where t.typtype = 'd'
)
select b.attname, t.typname, b.modifier
from base as b join pg_catalog.pg_type as t on t.oid = b.type and t.typtype <> 'd'
"""

_INCOMING = """
select c.conname, n.nspname, r.relname,
    array(
        select a.attname::text from unnest(c.confkey) with ordinality as k (number, place)
        join pg_catalog.pg_attribute as a on a.attrelid = c.confrelid and a.attnum = k.number order by k.place
    )
from pg_catalog.pg_constraint as c
join pg_catalog.pg_class as r on r.oid = c.conrelid
join pg_catalog.pg_namespace as n on n.oid = r.relnamespace
where c.contype = 'f' and c.confrelid = %s and c.conparentid = 0
order by n.nspname, r.relname, c.conname
"""


@dataclass(frozen=True, slots=True)
class _Side:
    """A table that rows come from or go into, as it is tried, and where it will be."""

    table: Definition
    tried: Place
    bases: Mapping[str, tuple[str, int]]

    @classmethod
    def of(cls, connection: Connection, table: Definition, schema: str) -> _Side:
        """Look at the clone of a table."""
        tried = writing.place(table, schema)
        rows = connection.execute(_BASES.encode(), [str(tried)]).fetchall()
        return cls(table, tried, {name: (base, modifier) for name, base, modifier in rows})

    @property
    def writable(self) -> list[Column]:
        """Return the columns that can be written."""
        return [column for column in self.table.columns if not column.generated]


def flows(
    connection: Connection,
    change: TableChange,
    old: Definition,
    new: Definition,
    alteration: Alteration,
    names: tuple[str, str],
    spec: ChangeSpec,
) -> tuple[Flow, Flow, dict[str, Any]]:
    """Return the way into the new table, the way back, and what was found out for those who carry dependents over.

    Empty tables like both stand in the two schemas, where the expressions are tried. Raises StepFailed for a key that
    does not survive, and where no way leads back.
    """
    new_schema, old_schema = names
    before, after = _Side.of(connection, old, old_schema), _Side.of(connection, new, new_schema)
    values = {column.name: alteration.values.get(column.name) for column in new.columns}
    following = {value.follows: column for column, value in values.items() if value is not None}
    key = _key(connection, change, before, after, values, following, spec)
    home = Place(schema_name=old.schema_name, name=old.name)
    forward = Flow(
        source=home,
        into=writing.place(new, new_schema),
        key=tuple(
            KeyColumn(
                name=column,
                type=type_,
                collation=collation,
                into=following[column],
                into_type=_column(new, following[column]).type,
            )
            for column, type_, collation in zip(key.columns, key.types, key.collations, strict=True)
        ),
        columns=tuple(
            _forward(connection, change, before, after, {each.name: values[each.name] for each in after.writable})
        ),
        kept=tuple(column.name for column in after.writable if values[column.name] is None),
    )
    for column in after.writable:
        bare = values[column.name] is None and column.default is None and not column.identity
        if bare and column.not_null:
            raise StepFailed(
                f'{change.table}: "{column.name}" is added as NOT NULL without a default: no row has a value for it',
                hint="give it a DEFAULT, which can be dropped later",
            )
    came_from = {column.into: column.expression for column in forward.columns}
    mapped, kept = _backward(connection, change, before, after, values, following, spec, came_from)
    backward = Flow(
        source=home,
        into=writing.place(old, old_schema),
        key=tuple(
            KeyColumn(
                name=column.into,
                type=column.into_type,
                collation=_collation(new, [each.into for each in forward.key], column.into),
                into=column.name,
                into_type=column.type,
            )
            for column in forward.key
        ),
        columns=tuple(mapped),
        kept=tuple(kept),
    )
    _try(connection, forward, before.tried, after.tried, f"{change.table} cannot be copied")
    _try(connection, backward, after.tried, before.tried, f"{change.table} cannot be brought back")
    return forward, backward, _dependents(connection, change, old, new, alteration, values, following, spec, kept)


def _unknown(column: str) -> str:
    """Return what to do where nothing says how the old value follows from the new ones."""
    return (
        f'a plan file says in `back` how "{column}" follows from the new columns (`--dry-run` prints the file); or do '
        "without the way back, outside of production: `segue change start … --no-reverse`"
    )


def _names(table: Definition) -> list[str]:
    return [column.name for column in table.columns]


def _column(table: Definition, name: str) -> Column:
    return next(column for column in table.columns if column.name == name)


# -- expressions


def _forward(
    connection: Connection, change: TableChange, before: _Side, after: _Side, values: Mapping[str, Value | None]
) -> list[Mapped]:
    found = []
    home = Place(schema_name=before.table.schema_name, name=before.table.name)
    for column, value in values.items():
        if value is None:
            continue
        into = _column(after.table, column)
        expression = _assigned(value.expression, value, before.table, into, after.bases[column])
        if expression != quoted(value.follows):
            what = f'{change.table}: column "{column}" cannot be computed'
            expression = _normal(connection, before.tried, expression, what)
            settings.check(connection, before.tried, home, expression, what, {})
        found.append(Mapped(into=column, type=into.type, expression=expression))
    return found


def _assigned(expression: str, value: Value | None, source: Definition, into: Column, base: tuple[str, int]) -> str:
    """Return an expression as it would be assigned to a column: what is too long is refused, not cut off."""
    if value is not None and expression == quoted(value.follows):
        came = source.column(value.follows)
        if came is not None and came.type == into.type:
            return expression
    name, modifier = base
    if name not in _CUTTING or modifier < 0:
        if name.lstrip("_") in _CUTTING and name.startswith("_") and modifier >= 0:
            return f"({expression})::pg_catalog.{quoted(name)}"  # the assignment itself looks at every element
        return f"({expression})::{into.type}"
    fitted = f"pg_catalog.{quoted(name)}(({expression})::pg_catalog.{quoted(name)}, {modifier}, false)"
    return f"({fitted})::{into.type}"


# The server's own functions are not among what an expression depends on; those are known by their names.
_VOLATILE = """
select p.oid::regproc::text
from pg_catalog.pg_constraint as c
join pg_catalog.pg_depend as d on d.classid = 'pg_catalog.pg_constraint'::regclass and d.objid = c.oid
join pg_catalog.pg_proc as p on d.refclassid = 'pg_catalog.pg_proc'::regclass and p.oid = d.refobjid
where c.conrelid = pg_catalog.to_regclass(%s) and c.conname = 'segue_value' and p.provolatile = 'v'
limit 1
"""


def _normal(connection: Connection, table: Place, expression: str, what: str) -> str:
    """Return an expression over a table's columns as the server writes it, every name with its schema."""
    head, tail = "(num_nonnulls(", ") = 1)"
    try:
        with connection.transaction(force_rollback=True):
            # A line of its own, for a comment at its end.
            rule = f"check (pg_catalog.num_nonnulls({expression}\n) = 1)"
            connection.execute(f"alter table {table} add constraint segue_value {rule}".encode())
            with reading.plain_names(connection):
                row = connection.execute(
                    "select pg_catalog.pg_get_expr(c.conbin, c.conrelid) from pg_catalog.pg_constraint as c "
                    "where c.conrelid = pg_catalog.to_regclass(%s) and c.conname = 'segue_value'",
                    [str(table)],
                ).fetchone()
            volatile = connection.execute(_VOLATILE.encode(), [str(table)]).fetchone()
    except psycopg.Error as error:
        if connection.closed:
            raise
        raise StepFailed(
            f"{what}: {error.diag.message_primary} (SQLSTATE {error.sqlstate})",
            details=[expression],
            hint=error.diag.message_hint or "correct the expression and run again",
        ) from error
    if volatile is not None:
        raise StepFailed(
            f"{what}: {volatile[0]}() may give another value each time, and no row could be compared with its copy",
            hint="declare the function STABLE or IMMUTABLE if it depends on its arguments alone",
        )
    text = str(row[0]) if row else ""
    if not (text.startswith(head) and text.endswith(tail)):
        raise StepFailed(f"{what}: the expression cannot be read: {text}")
    return text[len(head) : -len(tail)]


def _try(connection: Connection, flow: Flow, source: Place, into: Place, what: str) -> None:
    """Have the server plan the copy between the empty tables."""
    columns = ", ".join(quoted(column.into) for column in flow.columns)
    values = "\n, ".join(column.expression for column in flow.columns)
    if not flow.columns:
        raise StepFailed(f"{what}: no column of one is in the other")
    query = f"explain insert into {into} ({columns}) overriding system value\nselect {values}\nfrom {source}"
    try:
        with connection.transaction():
            connection.execute(query.encode())
    except psycopg.Error as error:
        if connection.closed:
            raise
        raise StepFailed(
            f"{what}: {error.diag.message_primary} (SQLSTATE {error.sqlstate})",
            hint=error.diag.message_hint or "correct the change and run again",
        ) from error


def _backward(
    connection: Connection,
    change: TableChange,
    before: _Side,
    after: _Side,
    values: Mapping[str, Value | None],
    following: Mapping[str, str],
    spec: ChangeSpec,
    came_from: Mapping[str, str],
) -> tuple[list[Mapped], list[str]]:
    rows = Place(schema_name=before.table.schema_name, name=before.table.name)
    unknown = [column for column in change.back if before.table.column(column) is None]
    if unknown:
        raise StepFailed(f'{change.table}: `back` names "{unknown[0]}", which is no column of the old table')
    mapped, kept = [], []
    for column in before.writable:
        became = following.get(column.name)
        base = before.bases[column.name]
        what = f'{change.table}: there is no way back for column "{column.name}"'
        try:
            if column.name in change.back:
                given = f"({change.back[column.name]}\n)"
                expression = _assigned(given, None, after.table, column, base)
            elif became is None:
                kept.append(column.name)
                continue
            elif not (value := values[became]) or not value.plain:
                raise StepFailed(
                    f"{what}: it is computed by USING",
                    hint=_unknown(column.name),
                )
            else:
                came = Value(quoted(became), became)
                expression = _assigned(came.expression, came, after.table, column, base)
            if became is None or expression != quoted(became):
                expression = _normal(connection, after.tried, expression, what)
                aliases = {name: came_from.get(name, "null") for name in _names(after.table)}
                settings.check(connection, after.tried, rows, expression, what, aliases)
        except StepFailed as error:
            if not spec.reversible:
                kept.append(column.name)
                continue
            raise StepFailed(
                error.message,
                details=error.details,
                hint=_unknown(column.name),
            ) from error
        mapped.append(Mapped(into=column.name, type=column.type, expression=expression))
    return mapped, kept


# -- keys


def _key(
    connection: Connection,
    change: TableChange,
    before: _Side,
    after: _Side,
    values: Mapping[str, Value | None],
    following: Mapping[str, str],
    spec: ChangeSpec,
) -> Key:
    """Return the key that is walked: one that the new table has too, best as a unique index."""
    old, new = before.table, after.table
    if not old.keys:
        raise StepFailed(
            f"{change.table} has no primary key and no unique index over NOT NULL columns",
            hint="rows are followed by their key; add one first, by CREATE UNIQUE INDEX CONCURRENTLY",
        )
    survivors, reasons = [], []
    for key in old.keys:
        reasons_why = (
            _lost(column, new, values, following, spec)
            or _mingled(connection, before, after, column, following[column], spec)
            for column in key.columns
        )
        reason = next((why for why in reasons_why if why), None)
        if reason is None:
            survivors.append(key)
        else:
            reasons.append(f"({', '.join(key.columns)}): {reason}")
    if not survivors:
        raise StepFailed(
            f"no key of {change.table} survives the change: rows could not be followed",
            details=reasons,
            hint="do it in two changes: first another unique key over NOT NULL columns, then this",
        )
    exact = [
        key for key in survivors if any(keyed(index, [following[c] for c in key.columns]) for index in new.indexes)
    ]
    return (exact or survivors)[0]


def _lost(
    column: str,
    new: Definition,
    values: Mapping[str, Value | None],
    following: Mapping[str, str],
    spec: ChangeSpec,
) -> str | None:
    became = following.get(column)
    if became is None:
        return f'"{column}" is dropped'
    value = values[became]
    if value is None or not value.plain:
        return f'"{column}" gets other values by USING'
    found = _column(new, became)
    if spec.reversible and not (found.not_null and found.not_null_valid):
        return f'"{became}" may be NULL afterwards, and such a row could not be brought back'
    return None


def _mingled(
    connection: Connection, before: _Side, after: _Side, column: str, became: str, spec: ChangeSpec
) -> str | None:
    """Return why keys that are apart could be one on the other side: a row would take the place of another."""
    came, goes = before.bases[column], after.bases[became]
    was, is_ = _column(before.table, column), _column(after.table, became)
    exact = faithful.is_deterministic(connection, is_.collation)
    if not (faithful.is_faithful(came, goes) and (exact or was.collation == is_.collation)):
        return f'values of "{column}" that are apart as {was.type} could be the same, or none, as {is_.type}'
    exact = faithful.is_deterministic(connection, was.collation)
    if spec.reversible and not (faithful.is_faithful(goes, came) and (exact or was.collation == is_.collation)):
        return (
            f'values of "{became}" that are apart as {is_.type} could be the same, or none, as {was.type}: such rows '
            "could not be brought back (without a way back it would go)"
        )
    return None


def keyed(index: Index, key: Sequence[str]) -> bool:
    """Return whether an index is unique over exactly these columns."""
    return (
        index.unique
        and index.immediate
        and index.where is None
        and index.method == "btree"
        and len(index.columns) == len(key)
        and {column.name for column in index.columns} == set(key)
    )


def finds(index: Index, key: Sequence[str]) -> bool:
    """Return whether rows are found by these columns through an index."""
    leading = [column.name for column in index.columns[: len(key)]]
    return index.where is None and index.method == "btree" and set(leading) == set(key)


def _collation(table: Definition, key: Sequence[str], column: str) -> str | None:
    """Return the collation in which a key of the new table is walked, where it is not the database's."""
    for index in table.indexes:
        if keyed(index, key):
            found = next(each.collation for each in index.columns if each.name == column)
            return None if found in (None, 'pg_catalog."default"') else found
    return _column(table, column).collation


def is_stricter(index: Index, old: Definition, new: Definition, alteration: Alteration) -> bool:
    """Return whether an index of the new table refuses rows that the old one may hold."""
    if not index.unique and not index.exclusion:
        return False
    values = {column.name: alteration.values.get(column.name) for column in new.columns}
    same = {
        name for name, value in values.items() if value is not None and value.type is None and value.follows == name
    }
    for known in old.indexes:
        if known.valid and known.before == index.before and known.where == index.where:
            used = {column.name for column in index.columns}
            whole = None in used or index.where is not None
            alike = known.unique == index.unique and known.exclusion == index.exclusion
            if alike and (len(same) == len(new.columns) if whole else used <= same):
                return False
        if index.unique and known.unique and known.valid and _implies(known, index, old, new, values):
            return False
    return True


def _implies(known: Index, index: Index, old: Definition, new: Definition, values: Mapping[str, Value | None]) -> bool:
    """Return whether what the old index keeps apart, the new one finds apart."""
    if known.where is not None or any(column.name is None for column in (*known.columns, *index.columns)):
        return False
    if known.method != "btree" or index.method != "btree":
        return False
    wanted = {column.name: column for column in index.columns}
    required = []
    for column in known.columns:
        into = next(
            (name for name, value in values.items() if value is not None and value.follows == column.name), None
        )
        if into is None or into not in wanted:
            return False
        value, came, becomes = values[into], old.column(column.name or ""), new.column(into)
        if value is None or came is None or becomes is None or not value.plain:
            return False
        if not _apart(came.type, becomes.type):
            return False
        # Two collations may find other values alike, unless both compare bytes in the end; which cannot be told here.
        if wanted[into].collation != column.collation:
            return False
        required.append(came.not_null and came.not_null_valid)
    return index.nulls_distinct or not known.nulls_distinct or all(required)


def _apart(old: str, new: str) -> bool:
    """Return whether values of a type that differ still differ as values of the other."""
    if old == new or (old in _WHOLE and new in _WHOLE):
        return True
    text = "character varying"
    if (old == "text" or old.startswith(text)) and (new == "text" or new.startswith(text)):
        # What is too long is refused, but for blanks at its end.
        return new in ("text", text) or (old.startswith(f"{text}(") and _length(old) <= _length(new))
    return False


def _length(type_: str) -> int:
    return int(type_.partition("(")[2].rstrip(")"))


# -- what others carry over


def _dependents(
    connection: Connection,
    change: TableChange,
    old: Definition,
    new: Definition,
    alteration: Alteration,
    values: Mapping[str, Value | None],
    following: Mapping[str, str],
    spec: ChangeSpec,
    kept: Sequence[str],
) -> dict[str, Any]:
    at = Place(schema_name=old.schema_name, name=old.name)
    added, dropped = _foreign_keys(connection, at, old, new, alteration.keys, following)
    for name, schema, table, columns in connection.execute(_INCOMING.encode(), [old.oid]):
        wanted = [following.get(column) for column in columns]
        others = [each for each in wanted if each and (value := values[each]) is not None and not value.plain]
        if others and len(spec.tables) == 1 and (schema, table) != (old.schema_name, old.name):
            raise StepFailed(
                f'foreign key "{name}" of {Place(schema_name=schema, name=table)} refers to "{others[0]}" of '
                f"{change.table}, which gets other values by USING",
                hint="change both tables together, or drop the foreign key first",
            )
        if any(_referable(index, wanted) for index in new.indexes):
            if wanted != columns and (schema, table) != (old.schema_name, old.name):
                raise StepFailed(
                    f'foreign key "{name}" of {Place(schema_name=schema, name=table)} refers to a column of '
                    f"{change.table} that is renamed",
                    hint="RENAME COLUMN takes a moment: write it as a `sql` step",
                )
            continue
        raise StepFailed(
            f'foreign key "{name}" of {Place(schema_name=schema, name=table)} refers to ({", ".join(columns)}) of '
            f"{change.table}, over which there would be no unique constraint any more",
            hint="drop the foreign key first",
        )
    widened = []
    for column in new.columns:
        value = values[column.name]
        came = old.column(value.follows) if value is not None else None
        owned = came.sequence if came is not None else None
        if owned is None or owned.internal or column.type not in _WHOLE or owned.type not in _WHOLE:
            continue
        if _WHOLE.index(owned.type) < _WHOLE.index(column.type):
            place = Place(schema_name=owned.schema_name, name=owned.name)
            widened.append({"sequence": str(place), "type": column.type, "was": owned.type})
    warnings = [
        f'{change.table}: rows that come after the swap have no "{column.name}", which is NOT NULL: to bring them '
        "back, a plan file says in `back` what it is to be"
        for column in old.columns
        if spec.reversible
        and column.name in kept
        and column.not_null
        and column.default is None
        and not column.identity
    ]
    return {
        "foreign_keys_added": added,
        "foreign_keys_dropped": dropped,
        "sequences_widened": widened,
        "columns": {column.name: following.get(column.name) for column in old.columns},
        "warnings": warnings,
    }


_PRIMARY = """
select array_agg(a.attname::text order by k.place)
from pg_catalog.pg_index as i
cross join lateral unnest(i.indkey::smallint[]) with ordinality as k (number, place)
join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.number
where i.indrelid = pg_catalog.to_regclass(%s) and i.indisprimary and k.place <= i.indnkeyatts
"""


def _foreign_keys(
    connection: Connection,
    at: Place,
    old: Definition,
    new: Definition,
    keys: ForeignKeys,
    following: Mapping[str, str],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the table's own foreign keys that the new table has otherwise, and the names of those it has no more."""
    common = {"table": str(at), "partitioned": new.kind == "p"}
    added = []
    for entry in keys.added:
        given = entry["refers_columns"]
        if not given:
            row = connection.execute(_PRIMARY.encode(), [entry["refers"]]).fetchone()
            given = row[0] if row and row[0] else []
        added.append({**entry, **common, "refers_columns": given})
    dropped = list(keys.dropped)
    for rule in old.constraints:
        if rule.kind != "f" or rule.name in keys.dropped or rule.refers_to is None:
            continue
        columns = [following.get(column) for column in rule.columns]
        refers = Place(schema_name=rule.refers_to[0], name=rule.refers_to[1])
        itself = refers == at
        theirs = [following.get(column) if itself else column for column in rule.refers_columns]
        name = keys.renamed.get(rule.name, rule.name)
        validated = rule.valid or rule.name in keys.validated
        same = (list(rule.columns), list(rule.refers_columns), rule.name, rule.valid)
        if (columns, theirs, name, validated) == same:
            continue
        dropped.append(rule.name)
        mine, others = [each for each in columns if each], [each for each in theirs if each]
        if len(mine) == len(columns) and len(others) == len(theirs):
            added.append(
                {
                    "name": name,
                    "definition": altering.with_columns(rule.definition, mine, others),
                    "columns": mine,
                    "refers": str(refers),
                    "refers_columns": others,
                    "validated": validated,
                    "comment": rule.comment,
                    **common,
                }
            )
    return added, dropped


def _referable(index: Index, columns: Sequence[str | None]) -> bool:
    """Return whether a foreign key can refer to what an index keeps unique."""
    names = [column.name for column in index.columns]
    return index.unique and index.where is None and len(names) == len(columns) and set(names) == set(columns)
