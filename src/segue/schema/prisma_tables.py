"""The tables of PostgreSQL that a `schema.prisma` stands for."""

from __future__ import annotations

from dataclasses import dataclass

from segue.schema.prisma import Call, Enum, Field, Model, Schema, Value, Word

#: The default of a column that takes its values from a sequence of its own.
GENERATED = "GENERATED"


@dataclass(frozen=True, slots=True)
class Conventions:
    """Where teams differ: the type of a DateTime without `@db`, and whether a list may be NULL. Defaults: Prisma's."""

    date_time: str = "timestamp(3) without time zone"
    nullable_lists: bool = True


@dataclass(frozen=True, slots=True)
class Column:
    """A column of PostgreSQL; `default` is an SQL expression or GENERATED, None where the client makes the value."""

    name: str
    type: str
    nullable: bool
    default: str | None


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key; the actions are SQL's words."""

    columns: tuple[str, ...]
    table: str
    references: tuple[str, ...]
    on_delete: str
    on_update: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table as Prisma would create it in PostgreSQL."""

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    uniques: tuple[tuple[str, ...], ...]
    indexes: tuple[tuple[str, ...], ...]
    foreign_keys: tuple[ForeignKey, ...]


_TYPES = {
    "String": "text",
    "Boolean": "boolean",
    "Int": "integer",
    "BigInt": "bigint",
    "Float": "double precision",
    "Decimal": "numeric(65,30)",
    "Json": "jsonb",
    "Bytes": "bytea",
}

_NATIVE = {
    "Text": "text",
    "VarChar": "character varying",
    "Char": "character",
    "Uuid": "uuid",
    "Xml": "xml",
    "Inet": "inet",
    "Citext": "citext",
    "Bit": "bit",
    "VarBit": "bit varying",
    "Boolean": "boolean",
    "SmallInt": "smallint",
    "Integer": "integer",
    "Int": "integer",
    "BigInt": "bigint",
    "Oid": "oid",
    "Real": "real",
    "DoublePrecision": "double precision",
    "Decimal": "numeric",
    "Money": "money",
    "Date": "date",
    "Json": "json",
    "JsonB": "jsonb",
    "ByteA": "bytea",
}

# The size stands in the middle of these names.
_TIMES = {
    "Timestamp": "timestamp{} without time zone",
    "Timestamptz": "timestamp{} with time zone",
    "Time": "time{} without time zone",
    "Timetz": "time{} with time zone",
}

_ACTION_WORDS = {
    "Cascade": "CASCADE",
    "Restrict": "RESTRICT",
    "NoAction": "NO ACTION",
    "SetNull": "SET NULL",
    "SetDefault": "SET DEFAULT",
}


def tables(schema: Schema, conventions: Conventions | None = None) -> tuple[Table, ...]:
    """Return the tables that the schema's models stand for, in the file's order; views are left out."""
    conventions = conventions or Conventions()
    enums = {enum.name: enum for enum in schema.enums}
    by_name = {model.name: model for model in schema.models}
    return tuple(_table(model, by_name, enums, conventions) for model in schema.models if not model.is_view)


def _table(model: Model, models: dict[str, Model], enums: dict[str, Enum], conventions: Conventions) -> Table:
    def columns(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(model.field(name).column for name in names)

    keys: list[ForeignKey] = []
    for each in model.fields:
        relation = each.relation
        if relation is None or not relation.fields:
            continue
        required = all(not model.field(name).optional for name in relation.fields)
        target = models.get(each.type)
        keys.append(
            ForeignKey(
                columns(relation.fields),
                target.table if target else each.type,
                tuple(target.field(name).column if target else name for name in relation.references),
                _ACTION_WORDS[relation.on_delete or ("Restrict" if required else "SetNull")],
                _ACTION_WORDS[relation.on_update or "Cascade"],
            )
        )
    return Table(
        name=model.table,
        columns=tuple(_column(each, enums, conventions) for each in model.fields if each.relation is None),
        primary_key=columns(model.id),
        uniques=tuple(columns(key.fields) for key in model.uniques),
        indexes=tuple(columns(key.fields) for key in model.indexes),
        foreign_keys=tuple(keys),
    )


def _column(each: Field, enums: dict[str, Enum], conventions: Conventions) -> Column:
    kind = _column_type(each, enums, conventions)
    nullable = conventions.nullable_lists if each.many else each.optional
    default = _column_default(each, kind, enums.get(each.type))
    return Column(each.column, kind + ("[]" if each.many else ""), nullable, default)


def _column_type(each: Field, enums: dict[str, Enum], conventions: Conventions) -> str:
    if each.unsupported:
        return each.type
    if each.native is not None:
        native, sizes = each.native
        size = f"({','.join(str(number) for number in sizes)})" if sizes else ""
        if native in _TIMES:
            return _TIMES[native].format(size)
        return _NATIVE.get(native, native.lower()) + size
    if each.type in enums:
        return f'"{enums[each.type].database_name}"'
    return conventions.date_time if each.type == "DateTime" else _TYPES[each.type]


def _column_default(each: Field, kind: str, enum: Enum | None) -> str | None:
    value = each.default
    if value is None:
        return None
    if isinstance(value, tuple):
        return f"ARRAY[{', '.join(_literal(one, kind, enum) for one in value)}]::{kind}[]"
    if isinstance(value, Call):
        if value.name == "now":
            return "CURRENT_TIMESTAMP"
        if value.name == "dbgenerated":
            return str(value.arguments[0]) if value.arguments else None
        # autoincrement() and sequence() are the column's own sequence; the other functions run in the client.
        return GENERATED if value.name in ("autoincrement", "sequence") else None
    return _literal(value, kind, enum)


def _literal(value: Value, kind: str, enum: Enum | None) -> str:
    if isinstance(value, Word) and enum is None:
        return value.text  # true or false
    if isinstance(value, Word) and enum is not None:
        value = enum.values[enum.names.index(value.text)]
    if isinstance(value, str):
        quoted = value.replace("'", "''")
        return f"'{quoted}'::{kind}"
    return str(value)
