"""Reads from the catalogue what a table is: columns, constraints, indexes, partitions, storage. A value to compare."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from pydantic import BaseModel, ConfigDict

from segue.databases.postgresql.keys import KEYS
from segue.errors import StepFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Connection = psycopg.Connection[tuple[Any, ...]]

BLOCK = 8192
GUESSED_ROW_BYTES = 120


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sequence(_Value):
    """The sequence of an identity column (`internal`), or one that a column owns."""

    schema_name: str
    name: str
    type: str
    start: int
    increment: int
    minimum: int
    maximum: int
    cache: int
    cycles: bool
    internal: bool


class Column(_Value):
    """A column. Types, collations and expressions are written so that they mean the same under any search_path."""

    name: str
    type: str
    collation: str | None = None  # where it is not the type's
    not_null: bool = False
    #: The constraint that says NOT NULL, on servers that name it.
    not_null_name: str | None = None
    not_null_valid: bool = True
    not_null_inherits: bool = True  # to partitions and inheriting tables
    default: str | None = None
    generated: str = ""  # s(tored), v(irtual); then `default` is the expression
    identity: str = ""  # a(lways), d (by default)
    sequence: Sequence | None = None
    storage: str | None = None  # where it is not the type's
    compression: str | None = None
    statistics: int | None = None
    options: tuple[str, ...] = ()
    local: bool = True  # defined here, not only inherited


class Constraint(_Value):
    """A constraint; `kind` as pg_constraint.contype has it. NOT NULL is told at its column."""

    name: str
    kind: str
    definition: str
    valid: bool
    deferrable: bool
    columns: tuple[str, ...] = ()
    index: str | None = None
    refers_to: tuple[str, str] | None = None  # schema and name of the table that a foreign key leads to
    refers_columns: tuple[str, ...] = ()
    comment: str | None = None
    local: bool = True
    part: bool = False  # of the same constraint of a partitioned table above


class IndexColumn(_Value):
    """A key column of an index: the column's name, or None for an expression."""

    name: str | None
    text: str
    collation: str | None
    operators: str  # operator class


class Index(_Value):
    """An index: CREATE INDEX name ON table `before` [TABLESPACE …] [WHERE `where`]."""

    name: str
    before: str
    where: str | None
    columns: tuple[IndexColumn, ...]
    method: str
    unique: bool
    nulls_distinct: bool
    primary: bool
    exclusion: bool
    immediate: bool
    valid: bool
    constraint: str | None
    clustered: bool
    replica_identity: bool
    tablespace: str | None
    statistics: tuple[tuple[int, int], ...] = ()
    part: bool = False  # of an index of the partitioned table above


class Key(_Value):
    """A key by which the rows can be walked: column, type and collation as `Backfill` takes them."""

    index: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    collations: tuple[str | None, ...]


class Definition(_Value):
    """A table as the catalogue has it, with everything below it."""

    oid: int
    schema_name: str
    name: str
    kind: str  # pg_class.relkind
    owner: str
    persistence: str
    tablespace: str | None
    method: str | None
    options: tuple[str, ...]
    toast_options: tuple[str, ...]
    of_type: str | None
    partition_key: str | None
    bound: str | None
    parents: tuple[tuple[str, str], ...]
    replica_identity: str
    row_security: bool
    force_row_security: bool
    columns: tuple[Column, ...]
    constraints: tuple[Constraint, ...]
    indexes: tuple[Index, ...]
    keys: tuple[Key, ...]
    below: tuple[Definition, ...]  # partitions, or tables that inherit from it
    rows: int
    bytes: int

    def fingerprint(self) -> str:
        """Return a digest of everything that a person's DDL would change, and of nothing else."""
        text = json.dumps(self.model_dump(mode="json", exclude=_passing(self)), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def column(self, name: str) -> Column | None:
        """Return a column."""
        return next((column for column in self.columns if column.name == name), None)

    def everything(self) -> Iterator[Definition]:
        """Yield the table and everything below it, the table first."""
        yield self
        for one in self.below:
            yield from one.everything()


def _passing(definition: Definition) -> dict[str, Any]:
    """Return what changes while the application works: pydantic's `exclude` of a tree."""
    passing: dict[str, Any] = {"rows": True, "bytes": True, "keys": True}
    if definition.below:
        passing["below"] = {number: _passing(one) for number, one in enumerate(definition.below)}
    return passing


@contextmanager
def plain_names(connection: Connection) -> Iterator[None]:
    """Have the server write every name with its schema, within a transaction of its own or the one that there is."""
    with connection.transaction():
        row = connection.execute("select pg_catalog.current_setting('search_path')").fetchone()
        connection.execute("select pg_catalog.set_config('search_path', '', true)")
        yield
        connection.execute("select pg_catalog.set_config('search_path', %s, true)", [row[0] if row else ""])


def find(connection: Connection, table_name: str) -> int:
    """Return the oid that a table's name means in this session; raises StepFailed when there is none."""
    try:
        with connection.transaction():
            row = connection.execute("select pg_catalog.to_regclass(%s)::oid::bigint", [table_name]).fetchone()
    except psycopg.Error:
        if connection.closed:
            raise
        row = None  # not a name at all
    if row is None or row[0] is None:
        raise StepFailed(
            f'there is no table "{table_name}"',
            hint="names follow SQL: write upper case in double quotes, and the schema where it is not the plan's",
        )
    return int(row[0])


def read(connection: Connection, table_name: str) -> Definition:
    """Read a table's definition, under no more than a reader's lock. Raises StepFailed when there is no such table."""
    return read_oid(connection, find(connection, table_name))


def read_oid(connection: Connection, oid: int) -> Definition:
    """Read a table's definition by its oid."""
    with plain_names(connection):
        return _Reading(connection, oid).definition(oid)


# -- queries

_TREE = """
with recursive tree as (
    select %(oid)s::oid as oid, null::oid as parent, 0 as place
    union all
    select i.inhrelid, i.inhparent, i.inhseqno from pg_catalog.pg_inherits as i join tree as t on t.oid = i.inhparent
)
select c.oid::bigint, t.parent::bigint, n.nspname, c.relname, c.relkind::text, pg_catalog.pg_get_userbyid(c.relowner),
    c.relpersistence::text,
    (select s.spcname from pg_catalog.pg_tablespace as s where s.oid = c.reltablespace),
    (select m.amname from pg_catalog.pg_am as m where m.oid = c.relam),
    coalesce(c.reloptions, '{}'), coalesce(o.reloptions, '{}'),
    case when c.reloftype <> 0 then pg_catalog.format_type(c.reloftype, null) end,
    case when c.relkind = 'p' then pg_catalog.pg_get_partkeydef(c.oid) end,
    pg_catalog.pg_get_expr(c.relpartbound, c.oid),
    array(
        select array[pn.nspname::text, p.relname::text] from pg_catalog.pg_inherits as i
        join pg_catalog.pg_class as p on p.oid = i.inhparent
        join pg_catalog.pg_namespace as pn on pn.oid = p.relnamespace
        where i.inhrelid = c.oid order by i.inhseqno
    ),
    c.relreplident::text, c.relrowsecurity, c.relforcerowsecurity,
    c.reltuples, c.relpages, coalesce(o.relpages, 0)
from tree as t
join pg_catalog.pg_class as c on c.oid = t.oid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
left join pg_catalog.pg_class as o on o.oid = c.reltoastrelid
order by t.place, n.nspname, c.relname
"""

_COLUMNS = """
select a.attrelid::bigint, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
    case when a.attcollation <> 0 and a.attcollation <> t.typcollation then (
        select quote_ident(cn.nspname) || '.' || quote_ident(co.collname) from pg_catalog.pg_collation as co
        join pg_catalog.pg_namespace as cn on cn.oid = co.collnamespace where co.oid = a.attcollation
    ) end,
    a.attnotnull, nn.conname, coalesce(nn.convalidated, true), not coalesce(nn.connoinherit, false),
    pg_catalog.pg_get_expr(d.adbin, d.adrelid), a.attgenerated::text, a.attidentity::text,
    s.owned,
    case when a.attstorage <> t.typstorage then a.attstorage::text end,
    nullif(a.attcompression::text, ''),
    case when a.attstattarget >= 0 then a.attstattarget end,
    coalesce(a.attoptions, '{}'), a.attislocal
from pg_catalog.pg_attribute as a
join pg_catalog.pg_type as t on t.oid = a.atttypid
left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
left join pg_catalog.pg_constraint as nn
    on nn.conrelid = a.attrelid and nn.contype = 'n' and nn.conkey[1] = a.attnum
left join lateral (
    select pg_catalog.json_build_object(
        'schema_name', sn.nspname, 'name', sc.relname, 'type', pg_catalog.format_type(q.seqtypid, null),
        'start', q.seqstart, 'increment', q.seqincrement, 'minimum', q.seqmin, 'maximum', q.seqmax,
        'cache', q.seqcache, 'cycles', q.seqcycle, 'internal', dp.deptype = 'i'
    ) as owned
    from pg_catalog.pg_depend as dp
    join pg_catalog.pg_sequence as q on q.seqrelid = dp.objid
    join pg_catalog.pg_class as sc on sc.oid = q.seqrelid
    join pg_catalog.pg_namespace as sn on sn.oid = sc.relnamespace
    where dp.classid = 'pg_catalog.pg_class'::regclass and dp.refclassid = 'pg_catalog.pg_class'::regclass
        and dp.refobjid = a.attrelid and dp.refobjsubid = a.attnum and dp.deptype in ('i', 'a')
    order by dp.deptype desc, sc.oid
    limit 1
) as s on true
where a.attrelid = any(%(oids)s::oid[]) and a.attnum > 0 and not a.attisdropped
order by a.attrelid, a.attnum
"""

_CONSTRAINTS = """
select c.conrelid::bigint, c.conname, c.contype::text, pg_catalog.pg_get_constraintdef(c.oid), c.convalidated,
    c.condeferrable,
    array(
        select a.attname::text from unnest(c.conkey) with ordinality as k (number, place)
        join pg_catalog.pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.number order by k.place
    ),
    (select i.relname from pg_catalog.pg_class as i where i.oid = c.conindid and c.contype <> 'f'),
    case when c.confrelid <> 0 then (
        select array[fn.nspname::text, f.relname::text] from pg_catalog.pg_class as f
        join pg_catalog.pg_namespace as fn on fn.oid = f.relnamespace where f.oid = c.confrelid
    ) end,
    c.conislocal, c.conparentid <> 0,
    array(
        select a.attname::text from unnest(c.confkey) with ordinality as k (number, place)
        join pg_catalog.pg_attribute as a on a.attrelid = c.confrelid and a.attnum = k.number order by k.place
    ),
    pg_catalog.obj_description(c.oid, 'pg_constraint')
from pg_catalog.pg_constraint as c
where c.conrelid = any(%(oids)s::oid[]) and c.contype in ('c', 'p', 'u', 'x', 'f')
order by c.conrelid, c.contype, c.conname
"""

_INDEXES = """
select i.indrelid::bigint, c.relname, pg_catalog.pg_get_indexdef(c.oid),
    'CREATE ' || case when i.indisunique then 'UNIQUE ' else '' end || 'INDEX ' || quote_ident(c.relname) || ' ON '
        || case when r.relkind = 'p' then 'ONLY ' else '' end || quote_ident(n.nspname) || '.' || quote_ident(r.relname)
        || ' ',
    pg_catalog.pg_get_expr(i.indpred, i.indrelid),
    (
        select pg_catalog.json_agg(pg_catalog.json_build_object(
            'name', (select a.attname from pg_catalog.pg_attribute as a where a.attrelid = i.indrelid
                and a.attnum = i.indkey[k.place - 1] and i.indkey[k.place - 1] <> 0),
            'text', pg_catalog.pg_get_indexdef(c.oid, k.place, false),
            'collation', (select quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
                from pg_catalog.pg_collation as co join pg_catalog.pg_namespace as cn on cn.oid = co.collnamespace
                where co.oid = i.indcollation[k.place - 1]),
            'operators', (select quote_ident(onn.nspname) || '.' || quote_ident(oc.opcname)
                from pg_catalog.pg_opclass as oc join pg_catalog.pg_namespace as onn on onn.oid = oc.opcnamespace
                where oc.oid = i.indclass[k.place - 1])
        ) order by k.place)
        from generate_series(1, i.indnkeyatts) as k (place)
    ),
    m.amname, i.indisunique, {nulls_distinct}, i.indisprimary, i.indisexclusion, i.indimmediate, i.indisvalid,
    (select k.conname from pg_catalog.pg_constraint as k where k.conindid = c.oid and k.contype in ('p', 'u', 'x')),
    i.indisclustered, i.indisreplident,
    (select s.spcname from pg_catalog.pg_tablespace as s where s.oid = c.reltablespace),
    array(
        select array[a.attnum::int, a.attstattarget::int] from pg_catalog.pg_attribute as a
        where a.attrelid = c.oid and a.attstattarget >= 0 and i.indkey[a.attnum - 1] = 0 order by a.attnum
    ),
    exists (select from pg_catalog.pg_inherits as h where h.inhrelid = c.oid)
from pg_catalog.pg_index as i
join pg_catalog.pg_class as c on c.oid = i.indexrelid
join pg_catalog.pg_class as r on r.oid = i.indrelid
join pg_catalog.pg_namespace as n on n.oid = r.relnamespace
join pg_catalog.pg_am as m on m.oid = c.relam
where i.indrelid = any(%(oids)s::oid[])
order by i.indrelid, c.relname
"""


class _Reading:
    """One look at the catalogue, under an empty search_path."""

    def __init__(self, connection: Connection, oid: int) -> None:
        self._connection = connection
        self._tables: dict[int, tuple[Any, ...]] = {}
        self._below: dict[int, list[int]] = {}
        for row in connection.execute(_TREE.encode(), {"oid": oid}):
            self._tables[row[0]] = row
            if row[1] is not None and row[0] not in self._below.setdefault(row[1], []):
                self._below[row[1]].append(row[0])
        if oid not in self._tables:
            raise StepFailed("the table is not there any more", hint="somebody has dropped it; look and run again")
        self._columns = self._by_table(_COLUMNS, _column)
        self._constraints = self._by_table(_CONSTRAINTS, _constraint)
        distinct = "not i.indnullsnotdistinct" if connection.info.server_version >= 150000 else "true"
        self._indexes = self._by_table(_INDEXES.replace("{nulls_distinct}", distinct), _index)

    def _by_table(self, query: str, make: Callable[[tuple[Any, ...]], Any]) -> dict[int, list[Any]]:
        found: dict[int, list[Any]] = {}
        for row in self._connection.execute(query.encode(), {"oids": list(self._tables)}):
            found.setdefault(row[0], []).append(make(row[1:]))
        return found

    def definition(self, oid: int, *, top: bool = True) -> Definition:
        """Return a table of the tree with everything below it; a partition's keys are those of its table."""
        row = self._tables[oid]
        below = tuple(self.definition(one, top=False) for one in self._below.get(oid, []))
        rows, held = _estimate(*row[18:21])
        return Definition(
            oid=oid,
            schema_name=row[2],
            name=row[3],
            kind=row[4],
            owner=row[5],
            persistence=row[6],
            tablespace=row[7],
            method=row[8],
            options=tuple(sorted(row[9])),
            toast_options=tuple(sorted(row[10])),
            of_type=row[11],
            partition_key=row[12],
            bound=row[13],
            parents=tuple((schema, name) for schema, name in row[14]),
            replica_identity=row[15],
            row_security=row[16],
            force_row_security=row[17],
            columns=tuple(self._columns.get(oid, ())),
            constraints=tuple(self._constraints.get(oid, ())),
            indexes=tuple(self._indexes.get(oid, ())),
            keys=self._keys(oid) if top or row[13] is None else (),
            below=below,
            rows=rows + sum(one.rows for one in below),
            bytes=held + sum(one.bytes for one in below),
        )

    def _keys(self, oid: int) -> tuple[Key, ...]:
        return tuple(
            Key(columns=tuple(columns), types=tuple(types), collations=tuple(collations), index=index)
            for columns, types, collations, index in self._connection.execute(KEYS.encode(), {"table": oid})
        )


def _estimate(tuples: float, pages: int, toast_pages: int) -> tuple[int, int]:
    held = max(0, pages) * BLOCK
    rows = round(tuples) if tuples >= 0 else held // GUESSED_ROW_BYTES
    return rows, held + max(0, toast_pages) * BLOCK


def _column(row: tuple[Any, ...]) -> Column:
    return Column(
        name=row[0],
        type=row[1],
        collation=row[2],
        not_null=row[3],
        not_null_name=row[4],
        not_null_valid=row[5],
        not_null_inherits=row[6],
        default=row[7],
        generated=row[8],
        identity=row[9],
        sequence=Sequence(**row[10]) if row[10] else None,
        storage=row[11],
        compression=row[12],
        statistics=row[13],
        options=tuple(sorted(row[14])),
        local=row[15],
    )


def _constraint(row: tuple[Any, ...]) -> Constraint:
    return Constraint(
        name=row[0],
        kind=row[1],
        definition=row[2],
        valid=row[3],
        deferrable=row[4],
        columns=tuple(row[5]),
        index=row[6],
        refers_to=(row[7][0], row[7][1]) if row[7] else None,
        local=row[8],
        part=row[9],
        refers_columns=tuple(row[10]),
        comment=row[11],
    )


def _index(row: tuple[Any, ...]) -> Index:
    text, head, where = row[1], row[2], row[3]
    end = f" WHERE {where}" if where else ""
    if not text.startswith(head) or not text.endswith(end):
        raise StepFailed(f'the definition of index "{row[0]}" cannot be read: {text}')
    return Index(
        name=row[0],
        before=text[len(head) : len(text) - len(end)],
        where=where,
        columns=tuple(IndexColumn(**column) for column in row[4]),
        method=row[5],
        unique=row[6],
        nulls_distinct=row[7],
        primary=row[8],
        exclusion=row[9],
        immediate=row[10],
        valid=row[11],
        constraint=row[12],
        clustered=row[13],
        replica_identity=row[14],
        tablespace=row[15],
        statistics=tuple((number, target) for number, target in row[16]),
        part=row[17],
    )
