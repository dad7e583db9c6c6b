"""Writes the SQL that makes a table as its definition says, empty and in another schema."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from segue.databases.postgresql.online.blueprint import Index as Planned
from segue.databases.postgresql.online.blueprint import Place
from segue.errors import StepFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from segue.databases.postgresql.online.reading import Column, Constraint, Definition, Index, Sequence

_STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}
_COMPRESSION = {"p": "pglz", "l": "lz4"}


def name(text: str) -> str:
    """Return a name in double quotes."""
    return '"' + text.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as a literal; backslashes mean themselves under the pinned settings."""
    return "'" + text.replace("'", "''") + "'"


def place(definition: Definition, schema: str) -> Place:
    """Return where a table stands in another schema: under its own name."""
    return Place(schema_name=schema, name=definition.name)


# -- tables


def tables(definition: Definition, schema: str) -> Iterator[list[str]]:
    """Yield the statements that make a table and everything below it, as `groups` does."""
    for _, statements in groups(definition, schema):
        yield statements


def groups(definition: Definition, schema: str) -> Iterator[tuple[Definition, list[str]]]:
    """Yield the statements that make a table and everything below it: each list with the table that it makes.

    Tables that inherit from one another are made together, so that each gets its columns in its own order. Without
    indexes and what stands on them, without foreign keys, and without rules that not every row has to obey. Raises
    StepFailed for columns that no order of statements would bring about.
    """
    if definition.kind == "r" and definition.below:
        yield definition, list(_family(definition, schema))
    else:
        yield from _table(definition, schema, None)


def _table(definition: Definition, schema: str, parent: Definition | None) -> Iterator[tuple[Definition, list[str]]]:
    if parent is not None:
        known = {rule.name for rule in parent.constraints}
        rules = [_rule(rule) for rule in definition.constraints if _early(rule) and rule.name not in known]
        body = f"PARTITION OF {place(parent, schema)}"
        body += f" ({', '.join(rules)})" if rules else ""
        body += f" {definition.bound}"
    else:
        parts = [_column(column, schema) for column in definition.columns]
        parts += [_rule(rule) for rule in definition.constraints if _early(rule)]
        body = "(\n    " + ",\n    ".join(parts) + "\n)"
    yield definition, [_create(definition, schema, body), *_altered(definition, schema, parent)]
    for one in definition.below:
        yield from _table(one, schema, definition)


def _create(definition: Definition, schema: str, body: str) -> str:
    head = "CREATE UNLOGGED TABLE" if definition.persistence == "u" else "CREATE TABLE"
    made = f"{head} {place(definition, schema)} {body}"
    if definition.partition_key is not None:
        made += f" PARTITION BY {definition.partition_key}"
    if definition.method is not None and definition.kind != "p":
        made += f" USING {name(definition.method)}"
    options = [option(each) for each in definition.options]
    options += [f"toast.{option(each)}" for each in definition.toast_options]
    if options:
        made += f" WITH ({', '.join(options)})"
    if definition.tablespace is not None:
        made += f" TABLESPACE {name(definition.tablespace)}"
    return made


def _altered(definition: Definition, schema: str, parent: Definition | None) -> list[str]:
    changes = list(_changes(definition, parent))
    return [f"ALTER TABLE ONLY {place(definition, schema)} {', '.join(changes)}"] if changes else []


# -- tables that inherit from one another


def _family(root: Definition, schema: str) -> Iterator[str]:
    """Make a family empty of columns, and add each column where it was defined, in an order that suits every table."""
    members: dict[str, Definition] = {}
    waiting = list({one.name: one for one in root.everything()}.values())
    while waiting:
        ready = [one for one in waiting if one is root or all(above in members for _, above in one.parents)]
        members |= {one.name: one for one in ready}
        waiting = [one for one in waiting if one.name not in members]
        if not ready:
            raise StepFailed(f'"{waiting[0].name}" inherits from a table that is not changed along')
    for one in members.values():
        above = ", ".join(str(Place(schema_name=schema, name=each)) for _, each in one.parents)
        yield _create(one, schema, "()" if one is root else f"() INHERITS ({above})")
    for table, column in _column_order(members):
        later = column.not_null_name is not None
        bare = column.model_copy(update={"identity": "", "not_null": column.not_null and not later})
        yield f"ALTER TABLE {place(members[table], schema)} ADD COLUMN {_column(bare, schema)}"
    # The heirs' own first: what comes from above is merged with it, and not the other way round.
    for one in reversed(members.values()):
        rules = [_not_null(column) for column in one.columns if _names_not_null(one, column, members)]
        rules += [_rule(rule) for rule in one.constraints if _early(rule) and (rule.local or one is root)]
        yield from (f"ALTER TABLE {place(one, schema)} ADD {rule}" for rule in rules)
    for one in members.values():
        head = f"ALTER TABLE ONLY {place(one, schema)} ALTER COLUMN"
        for column in one.columns:
            if column.identity and column.sequence is not None:
                yield f"{head} {name(column.name)} ADD {_identity(column, schema)}"
        yield from _altered(one, schema, members[one.parents[0][1]] if one is not root else None)


def _names_not_null(table: Definition, column: Column, members: Mapping[str, Definition]) -> bool:
    """Return whether a table has a NOT NULL with a name of its own, not only that of a table above."""
    if column.not_null_name is None or not column.not_null_valid:
        return False
    found = [members[above].column(column.name) for _, above in table.parents if above in members]
    return column.local or column.not_null_name not in {each.not_null_name for each in found if each is not None}


def _column_order(members: Mapping[str, Definition]) -> list[tuple[str, Column]]:
    """Return where each column is defined, in an order that gives every table its columns in its own order."""

    def origin(table: Definition, column: str) -> tuple[str, str]:
        found = table.column(column)
        for _, above in table.parents if found is not None and not found.local else ():
            if above in members and members[above].column(column) is not None:
                return origin(members[above], column)
        return table.name, column

    later: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for table in members.values():
        places = [origin(table, column.name) for column in table.columns]
        for one in places:
            later.setdefault(one, set())
        for one, other in pairwise(places):
            later[one].add(other)
        for column in table.columns:
            for _, above in table.parents:
                if column.local and above in members and members[above].column(column.name) is not None:
                    later[table.name, column.name].add(origin(members[above], column.name))
    order: list[tuple[str, Column]] = []
    while later:
        first = next((one for one in later if not any(one in others for others in later.values())), None)
        if first is None:
            raise StepFailed("columns of tables that inherit from one another stand in an order that cannot be made")
        del later[first]
        order.append((first[0], next(each for each in members[first[0]].columns if each.name == first[1])))
    return order


def _early(rule: Constraint) -> bool:
    """Return whether a constraint is a CHECK that every row obeys, so that it can be there from the beginning."""
    return rule.kind == "c" and not is_late(rule)


def is_late(rule: Constraint) -> bool:
    """Return whether a CHECK holds for new rows alone: it would refuse old ones that are allowed to stay."""
    return rule.kind == "c" and not rule.valid and rule.definition.endswith(" NOT VALID")


def _rule(rule: Constraint) -> str:
    return f"CONSTRAINT {name(rule.name)} {rule.definition}"


def _column(column: Column, schema: str) -> str:
    words = [name(column.name), column.type]
    if column.collation is not None:
        words.append(f"COLLATE {column.collation}")
    if column.generated:
        words.append(f"GENERATED ALWAYS AS ({column.default}) " + ("VIRTUAL" if column.generated == "v" else "STORED"))
    elif column.default is not None:
        words.append(f"DEFAULT {column.default}")
    if column.identity:
        words.append(_identity(column, schema))
    if column.not_null and column.not_null_valid:
        if column.not_null_name is not None:
            words.append(f"CONSTRAINT {name(column.not_null_name)}")
        words.append("NOT NULL" if column.not_null_inherits else "NOT NULL NO INHERIT")
    return " ".join(words)


def _not_null(column: Column) -> str:
    """Return NOT NULL as a constraint with a name, as servers from 18 on have it."""
    words = f"CONSTRAINT {name(column.not_null_name or '')} NOT NULL {name(column.name)}"
    return words if column.not_null_inherits else f"{words} NO INHERIT"


def _identity(column: Column, schema: str) -> str:
    kind = "ALWAYS" if column.identity == "a" else "BY DEFAULT"
    options = f" ({sequence(column.sequence, schema)})" if column.sequence is not None else ""
    return f"GENERATED {kind} AS IDENTITY{options}"


def sequence(one: Sequence, schema: str) -> str:
    """Return the options of an identity column's sequence, which gets the same name in another schema."""
    return (
        f"SEQUENCE NAME {Place(schema_name=schema, name=one.name)} START WITH {one.start} INCREMENT BY {one.increment} "
        f"MINVALUE {one.minimum} MAXVALUE {one.maximum} CACHE {one.cache}{' CYCLE' if one.cycles else ' NO CYCLE'}"
    )


def option(text: str) -> str:
    """Return a storage parameter as WITH and SET write it."""
    key, _, value = text.partition("=")
    return f"{name(key)}={literal(value)}"


def _changes(definition: Definition, parent: Definition | None) -> Iterator[str]:
    """Yield what CREATE TABLE cannot say, or what a table has otherwise than the one above it."""
    partition = definition.bound is not None
    for column in definition.columns:
        above = parent.column(column.name) if parent is not None else None
        inherited = above is not None and (partition or not column.local)
        head = f"ALTER COLUMN {name(column.name)}"
        if column.storage is not None and (above is None or above.storage != column.storage):
            yield f"{head} SET STORAGE {_STORAGE[column.storage]}"
        if column.compression is not None and (above is None or above.compression != column.compression):
            yield f"{head} SET COMPRESSION {_COMPRESSION[column.compression]}"
        if column.statistics is not None:
            yield f"{head} SET STATISTICS {column.statistics}"
        if column.options:
            yield f"{head} SET ({', '.join(option(each) for each in column.options)})"
        if inherited and above is not None:
            if column.default != above.default and not column.generated:
                yield f"{head} DROP DEFAULT" if column.default is None else f"{head} SET DEFAULT {column.default}"
            named = column.not_null_name is not None and not partition
            if column.not_null and column.not_null_valid and not above.not_null and not named:
                yield f"{head} SET NOT NULL"


# -- indexes, and constraints that wait for the rows


def indexes(definition: Definition, schema: str, *, without: frozenset[str] = frozenset()) -> Iterator[Planned]:
    """Yield the indexes of a table and everything below it, and other constraints that come late, leaves first.

    `without`: indexes of partitions that are made together with those of the table above.
    """
    # What inherits from two of them stands below each.
    for one in {each.oid: each for each in _leaves_first(definition)}.values():
        yield from _indexes(one, schema, without)


def _leaves_first(definition: Definition) -> Iterator[Definition]:
    for one in definition.below:
        yield from _leaves_first(one)
    yield definition


def _indexes(definition: Definition, schema: str, without: frozenset[str]) -> Iterator[Planned]:
    at = place(definition, schema)
    for index in definition.indexes:
        if not (index.part and index.name in without):
            yield _index(definition, index, at)
    for rule in definition.constraints:
        if is_late(rule) and not (rule.part or (definition.bound is not None and not rule.local)):
            yield Planned(name=rule.name, sql="", constraint=rule.name, definition=rule.definition, table=at)
    for column in definition.columns:
        if column.not_null and not column.not_null_valid and column.not_null_name is not None:
            words = f"NOT NULL {name(column.name)}{'' if column.not_null_inherits else ' NO INHERIT'} NOT VALID"
            yield Planned(
                name=column.not_null_name, sql="", constraint=column.not_null_name, definition=words, table=at
            )


def _index(definition: Definition, index: Index, at: Place) -> Planned:
    constraint = next((each for each in definition.constraints if each.name == index.constraint), None)
    fields: dict[str, Any] = {
        "name": index.name,
        "unique": index.unique,
        "primary": index.primary,
        "constraint": index.constraint,
        "table": at,
        "after": tuple(_after(index, at)),
    }
    words = f"CREATE {'UNIQUE ' if index.unique else ''}INDEX {name(index.name)} ON {at} {index.before}"
    if index.tablespace is not None:
        words += f" TABLESPACE {name(index.tablespace)}"
    if index.where is not None:
        words += f" WHERE {index.where}"
    if constraint is None:
        return Planned(sql=words, **fields)
    # An index that is no btree, or of a partitioned table, cannot be turned into a constraint.
    if constraint.kind == "x" or index.method != "btree" or definition.kind == "p":
        return Planned(sql="", definition=constraint.definition, **fields)
    kind = "PRIMARY KEY" if constraint.kind == "p" else "UNIQUE"
    later = ""
    for suffix in (" DEFERRABLE INITIALLY DEFERRED", " DEFERRABLE"):
        if constraint.definition.endswith(suffix):
            later = suffix
            break
    return Planned(sql=words, definition=f"{kind} USING INDEX {name(index.name)}{later}", **fields)


def _after(index: Index, at: Place) -> Iterator[str]:
    where = Place(schema_name=at.schema_name, name=index.name)
    for number, target in index.statistics:
        yield f"ALTER INDEX {where} ALTER COLUMN {number} SET STATISTICS {target}"
    if index.clustered:
        yield f"ALTER TABLE {at} CLUSTER ON {name(index.name)}"
    if index.replica_identity:
        yield f"ALTER TABLE {at} REPLICA IDENTITY USING INDEX {name(index.name)}"


def build(planned: Planned, at: Place) -> list[str]:
    """Return the statements that make an index or constraint on the table `at`."""
    made = [planned.sql] if planned.sql else []
    if planned.constraint is not None and planned.definition is not None:
        made.append(f"ALTER TABLE {at} ADD CONSTRAINT {name(planned.constraint)} {planned.definition}")
    return [*made, *planned.after]


# -- comparing


def differences(one: Definition, other: Definition, *, bare: bool = False) -> list[str]:
    """Return where two tables are not defined alike, each in words; `bare`: without indexes and what comes late.

    Neither says where they are, whose, nor what hangs on them: foreign keys, replica identity, row security.
    """
    return list(_differ(normal(one, bare=bare), normal(other, bare=bare), ""))


def normal(definition: Definition, *, bare: bool = False) -> dict[str, Any]:
    """Return what two tables that are defined alike have in common."""
    partition = definition.bound is not None
    columns: dict[str, Any] = {}
    for place_, column in enumerate(definition.columns):
        one = column.model_dump(mode="json", exclude={"name"})
        if column.sequence is not None:
            one["sequence"] = {**one["sequence"], "schema_name": ""} if column.sequence.internal else None
        if partition:
            # A partition that was attached has columns of its own, in an order of its own, under the same names.
            one.update(not_null_name=None, local=True)
        else:
            one["place"] = place_
        if bare and not column.not_null_valid:
            one.update(not_null=False, not_null_valid=True, not_null_name=None, not_null_inherits=True)
        columns[column.name] = one
    rules = {
        each.name: {"definition": each.definition, "kind": each.kind, "index": each.index}
        for each in definition.constraints
        if each.kind != "f" and not (bare and (each.kind != "c" or is_late(each)))
    }
    made = {
        each.name: each.model_dump(mode="json", exclude={"valid", "name", "clustered", "replica_identity"})
        for each in definition.indexes
    }
    return {
        "kind": definition.kind,
        "persistence": definition.persistence,
        "tablespace": definition.tablespace,
        "access method": definition.method if definition.kind != "p" else None,
        "options": list(definition.options),
        "toast options": list(definition.toast_options),
        "partition key": definition.partition_key,
        "bound": definition.bound,
        "parents": [each for _, each in definition.parents] if not partition else [],
        "column": columns,
        "constraint": rules,
        "index": {} if bare else made,
        "table": {one.name: normal(one, bare=bare) for one in definition.below},
    }


def _differ(one: Any, other: Any, where: str) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            inner = f"{where} {key}".strip()
            if key not in one or key not in other:
                yield f"{inner}: {'missing' if key not in other else 'unexpected'}"
            else:
                yield from _differ(one[key], other[key], inner)
    elif one != other:
        yield f"{where}: {other!r} instead of {one!r}"
