"""Reads everything that the catalogue says of tables themselves: alike from an original and from its clone."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from psycopg import sql

from segue.databases.postgresql.online.blueprint import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import LiteralString

    import psycopg

    Connection = psycopg.Connection[Any]

Facts = dict[str, Any]


@contextmanager
def everything_qualified(connection: Connection) -> Iterator[None]:
    """Read in one transaction in which the server writes every name with its schema, whatever the session's path is."""
    with connection.transaction():
        row = connection.execute("select pg_catalog.current_setting('search_path')").fetchone()
        connection.execute("set local search_path = ''")
        yield
        # It would outlive a savepoint.
        connection.execute("select pg_catalog.set_config('search_path', %s, true)", [row[0] if row else ""])


def compose(template: LiteralString, **parts: sql.Composable) -> str:
    """Return a statement as text, its names and values quoted."""
    return sql.SQL(template).format(**parts).as_string(None)


def ident(*names: str) -> sql.Identifier:
    """Return a name, qualified or not, for a statement."""
    return sql.Identifier(*names)


def literal(value: object) -> sql.Literal:
    """Return a value for a statement."""
    return sql.Literal(value)


def verbatim(text: str) -> sql.Composable:
    """Return SQL that the server itself has written."""
    return sql.SQL(text)


def listed(parts: Sequence[sql.Composable]) -> sql.Composable:
    """Return parts with commas between them."""
    return sql.SQL(", ").join(parts)


# -- reading ----------------------------------------------------------------------------------------------------------

_RELATIONS = """
select c.oid::bigint as oid, n.nspname as schema, c.relname as name, c.relkind::text as kind,
    pg_catalog.pg_get_userbyid(c.relowner) as owner, c.relpersistence::text as persistence,
    c.relrowsecurity as row_security, c.relforcerowsecurity as force_row_security,
    c.relreplident::text as replica_identity, coalesce(c.reloptions, '{}') as options,
    coalesce((select t.reloptions from pg_catalog.pg_class as t where t.oid = c.reltoastrelid), '{}') as toast_options,
    coalesce((select s.spcname from pg_catalog.pg_tablespace as s where s.oid = c.reltablespace), '') as tablespace,
    coalesce((select m.amname from pg_catalog.pg_am as m where m.oid = c.relam), '') as access_method,
    case when c.reloftype <> 0 then pg_catalog.format_type(c.reloftype, null) end as of_type,
    pg_catalog.obj_description(c.oid, 'pg_class') as comment,
    pg_catalog.obj_description(c.reltype, 'pg_type') as type_comment,
    case when c.relkind = 'p' then pg_catalog.pg_get_partkeydef(c.oid) end as partition_key,
    pg_catalog.pg_get_expr(c.relpartbound, c.oid) as partition_bound
from pg_catalog.pg_class as c
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
where c.oid = any(%(oids)s::oid[])
"""

# The owner's own privileges, too: they may have been revoked.
_GRANTS = """
select c.oid::bigint as oid, null::text as part, g.grantee::bigint = 0 as everyone,
    pg_catalog.pg_get_userbyid(g.grantee) as grantee, g.privilege_type as privilege, g.is_grantable as grantable,
    pg_catalog.pg_get_userbyid(g.grantor) as grantor, g.grantor = c.relowner as by_owner,
    pg_catalog.pg_has_role(g.grantor, 'MEMBER') as becomes
from pg_catalog.pg_class as c
cross join lateral pg_catalog.aclexplode(
    coalesce(c.relacl, pg_catalog.acldefault(case c.relkind when 'S' then 's'::"char" else 'r'::"char" end, c.relowner))
) as g
where c.oid = any(%(oids)s::oid[])
union all
select c.oid::bigint, a.attname, g.grantee::bigint = 0, pg_catalog.pg_get_userbyid(g.grantee), g.privilege_type,
    g.is_grantable, pg_catalog.pg_get_userbyid(g.grantor), g.grantor = c.relowner,
    pg_catalog.pg_has_role(g.grantor, 'MEMBER')
from pg_catalog.pg_class as c
inner join pg_catalog.pg_attribute as a on c.oid = a.attrelid
cross join lateral pg_catalog.aclexplode(a.attacl) as g
where c.oid = any(%(oids)s::oid[]) and a.attnum > 0 and not a.attisdropped
order by 1, 2 nulls first, 4, 5, 7
"""

_COLUMNS = """
select a.attrelid::bigint as oid, a.attname as name, pg_catalog.format_type(a.atttypid, a.atttypmod) as type,
    a.attnum::integer as number,
    a.attnotnull as not_null, coalesce(a.attstattarget, -1)::integer as statistics,
    coalesce(a.attoptions, '{}') as options,
    a.attstorage::text as storage, a.attcompression::text as compression, a.attidentity::text as identity,
    a.attgenerated::text as generated, a.attlen::integer as length, a.attislocal as local,
    coalesce((
        select pg_catalog.format('%%I.%%I', n.nspname, o.collname)
        from pg_catalog.pg_collation as o inner join pg_catalog.pg_namespace as n on o.collnamespace = n.oid
        where o.oid = a.attcollation
    ), '') as collation,
    pg_catalog.pg_get_expr(d.adbin, d.adrelid) as expression,
    pg_catalog.col_description(a.attrelid, a.attnum) as comment
from pg_catalog.pg_attribute as a
left join pg_catalog.pg_attrdef as d on a.attrelid = d.adrelid and a.attnum = d.adnum
where a.attrelid = any(%(oids)s::oid[]) and a.attnum > 0 and not a.attisdropped
order by a.attrelid, a.attnum
"""

_POLICIES = """
select p.polrelid::bigint as oid, p.polname as name, p.polcmd::text as command, p.polpermissive as permissive,
    array(select case r.role when 0 then '' else pg_catalog.pg_get_userbyid(r.role)::text end
        from unnest(p.polroles) as r (role) order by 1) as roles,
    pg_catalog.pg_get_expr(p.polqual, p.polrelid) as condition,
    pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) as check_condition,
    pg_catalog.obj_description(p.oid, 'pg_policy') as comment
from pg_catalog.pg_policy as p
where p.polrelid = any(%(oids)s::oid[])
order by 1, 2
"""

# Segue's own triggers come and go with a change, a maintenance window or a ghost.
_TRIGGERS = """
select t.tgrelid::bigint as oid, t.tgname as name, pg_catalog.pg_get_triggerdef(t.oid) as definition,
    t.tgenabled::text as enabled, t.tgparentid <> 0 as inherited,
    pg_catalog.obj_description(t.oid, 'pg_trigger') as comment,
    array(
        select e.extname::text from pg_catalog.pg_depend as d
        inner join pg_catalog.pg_extension as e on d.refobjid = e.oid
        where d.classid = 'pg_catalog.pg_trigger'::regclass and d.objid = t.oid and d.deptype = 'x'
            and d.refclassid = 'pg_catalog.pg_extension'::regclass
        order by 1
    ) as extensions
from pg_catalog.pg_trigger as t
inner join pg_catalog.pg_proc as f on t.tgfoid = f.oid
where t.tgrelid = any(%(oids)s::oid[]) and not t.tgisinternal
    and f.pronamespace is distinct from pg_catalog.to_regnamespace('segue')::oid
order by 1, 2
"""

_RULES = """
select u.ev_class::bigint as oid, u.rulename as name, pg_catalog.pg_get_ruledef(u.oid) as definition,
    u.ev_enabled::text as enabled, pg_catalog.obj_description(u.oid, 'pg_rewrite') as comment
from pg_catalog.pg_rewrite as u
where u.ev_class = any(%(oids)s::oid[]) and u.rulename <> '_RETURN'
order by 1, 2
"""

_CONSTRAINTS = """
select c.conrelid::bigint as oid, c.conname as name, c.contype::text as kind,
    pg_catalog.pg_get_constraintdef(c.oid) as definition, c.convalidated as validated,
    c.conparentid <> 0 as inherited, c.connoinherit as no_inherit,
    pg_catalog.obj_description(c.oid, 'pg_constraint') as comment
from pg_catalog.pg_constraint as c
where c.conrelid = any(%(oids)s::oid[])
order by 1, 2
"""

_INDEXES = """
select i.indrelid::bigint as oid, x.relname as name, pg_catalog.pg_get_indexdef(i.indexrelid) as definition,
    i.indisclustered as clustered, i.indisreplident as identifies, i.indisvalid as valid,
    i.indisunique as is_unique,
    coalesce((select s.spcname from pg_catalog.pg_tablespace as s where s.oid = x.reltablespace), '') as tablespace,
    exists (select from pg_catalog.pg_inherits as h where h.inhrelid = x.oid) as inherited,
    (
        select pg_catalog.jsonb_object_agg(a.attnum, a.attstattarget) from pg_catalog.pg_attribute as a
        where a.attrelid = x.oid and a.attstattarget >= 0
    ) as statistics,
    pg_catalog.obj_description(x.oid, 'pg_class') as comment,
    array(
        select e.extname::text from pg_catalog.pg_depend as d
        inner join pg_catalog.pg_extension as e on d.refobjid = e.oid
        where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = x.oid and d.deptype = 'x'
            and d.refclassid = 'pg_catalog.pg_extension'::regclass
        order by 1
    ) as extensions
from pg_catalog.pg_index as i
inner join pg_catalog.pg_class as x on i.indexrelid = x.oid
where i.indrelid = any(%(oids)s::oid[])
order by 1, 2
"""

_STATISTICS = """
select s.stxrelid::bigint as oid, n.nspname as schema, s.stxname as name, s.stxkind::text[] as kinds,
    pg_catalog.pg_get_statisticsobjdef_columns(s.oid) as columns, coalesce(s.stxstattarget, -1)::integer as target,
    pg_catalog.pg_get_userbyid(s.stxowner) as owner, pg_catalog.obj_description(s.oid, 'pg_statistic_ext') as comment
from pg_catalog.pg_statistic_ext as s
inner join pg_catalog.pg_namespace as n on s.stxnamespace = n.oid
where s.stxrelid = any(%(oids)s::oid[])
order by 1, 2, 3
"""

_SEQUENCES = """
select a.attrelid::bigint as oid, a.attname as column, n.nspname as schema, c.relname as name,
    d.deptype = 'i' as identity, c.oid::bigint as sequence, pg_catalog.format_type(q.seqtypid, null) as type,
    q.seqstart as start, q.seqincrement as increment, q.seqmax as maximum, q.seqmin as minimum, q.seqcache as cache,
    q.seqcycle as cycle, c.relpersistence::text as persistence,
    pg_catalog.pg_get_userbyid(c.relowner) as owner, pg_catalog.obj_description(c.oid, 'pg_class') as comment
from pg_catalog.pg_depend as d
inner join pg_catalog.pg_class as c on d.objid = c.oid and c.relkind = 'S'
inner join pg_catalog.pg_sequence as q on c.oid = q.seqrelid
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
inner join pg_catalog.pg_attribute as a on d.refobjid = a.attrelid and d.refobjsubid = a.attnum
where d.classid = 'pg_catalog.pg_class'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
    and d.deptype in ('a', 'i') and d.refobjid = any(%(oids)s::oid[])
order by 1, 2, 4
"""

_PUBLICATIONS = """
select r.prrelid::bigint as oid, p.pubname as name, {columns} as columns, {condition} as condition
from pg_catalog.pg_publication_rel as r
inner join pg_catalog.pg_publication as p on r.prpubid = p.oid
where r.prrelid = any(%(oids)s::oid[])
    -- A change that follows a slot makes one of its own, by which it is known (see `slots`).
    and pg_catalog.obj_description(p.oid, 'pg_publication') is distinct from 'segue: follows an online change'
order by 1, 2
"""
_PUBLISHED_COLUMNS = """
(
    select pg_catalog.array_agg(a.attname::text order by a.attnum) from pg_catalog.pg_attribute as a
    where a.attrelid = r.prrelid and a.attnum = any(r.prattrs)
)
"""

_LABELS = """
select l.objoid::bigint as oid, a.attname as column, l.provider as provider, l.label as label
from pg_catalog.pg_seclabel as l
left join pg_catalog.pg_attribute as a on l.objoid = a.attrelid and l.objsubid = a.attnum and l.objsubid > 0
where l.classoid = 'pg_catalog.pg_class'::regclass and l.objoid = any(%(oids)s::oid[])
order by 1, 2, 3
"""

_SUBSCRIPTIONS = """
select r.srrelid::bigint as oid, s.subname as name
from pg_catalog.pg_subscription_rel as r
inner join pg_catalog.pg_subscription as s on r.srsubid = s.oid
where r.srrelid = any(%(oids)s::oid[])
order by 1, 2
"""


def rows(connection: Connection, query: str, **parameters: Any) -> list[dict[str, Any]]:
    """Run a query of the catalogue and return its rows by column name."""
    from psycopg.rows import dict_row

    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), parameters or None).fetchall()


def read(connection: Connection, oids: Sequence[int]) -> dict[int, Facts]:
    """Return what the catalogue says of these tables themselves, by oid; names in it are qualified.

    Whatever follows the table without being its own (views, others' foreign keys) is not in it.
    """
    found: dict[int, Facts] = {}
    wanted = list(oids)
    with everything_qualified(connection):
        for row in rows(connection, _RELATIONS, oids=wanted):
            oid = row.pop("oid")
            found[oid] = {**row, "oid": oid, "grants": [], "labels": [], "sequences": []}
            found[oid] |= {part: {} for part in ("columns", "policies", "triggers", "rules", "constraints")}
            found[oid] |= {part: {} for part in ("indexes", "statistics", "publications")} | {"subscriptions": []}
        for part, query in (
            ("columns", _COLUMNS),
            ("policies", _POLICIES),
            ("triggers", _TRIGGERS),
            ("rules", _RULES),
            ("constraints", _CONSTRAINTS),
            ("indexes", _INDEXES),
            ("statistics", _STATISTICS),
            ("publications", _publications(connection)),
        ):
            for row in rows(connection, query, oids=wanted):
                found[row.pop("oid")][part][row.pop("name")] = row
        for row in rows(connection, _GRANTS, oids=wanted):
            found[row.pop("oid")]["grants"].append(row)
        for row in rows(connection, _LABELS, oids=wanted):
            found[row.pop("oid")]["labels"].append(row)
        for row in rows(connection, _SUBSCRIPTIONS, oids=wanted):
            found[row.pop("oid")]["subscriptions"].append(row["name"])
        sequences = rows(connection, _SEQUENCES, oids=wanted)
        grants: dict[int, list[dict[str, Any]]] = {}
        for row in rows(connection, _GRANTS, oids=[each["sequence"] for each in sequences]):
            grants.setdefault(row.pop("oid"), []).append(row)
        for row in sequences:
            row["grants"] = grants.get(row.pop("sequence"), [])
            found[row.pop("oid")]["sequences"].append(row)
    return found


def _publications(connection: Connection) -> str:
    """Column lists and row filters came with PostgreSQL 15."""
    if connection.info.server_version < 150000:
        return _PUBLICATIONS.format(columns="null::text[]", condition="null::text")
    return _PUBLICATIONS.format(columns=_PUBLISHED_COLUMNS, condition="pg_catalog.pg_get_expr(r.prqual, r.prrelid)")


def place(facts: Mapping[str, Any]) -> Place:
    """Return where a table is, by its facts."""
    return Place(schema_name=facts["schema"], name=facts["name"])


def find_oids(connection: Connection, places: Sequence[Place]) -> dict[str, int]:
    """Return the oids of those relations that there are, by their names as SQL writes them."""
    found = connection.execute(
        "select n.nspname, c.relname, c.oid::bigint from pg_catalog.pg_class as c "
        "inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid "
        "inner join unnest(%s::text[], %s::text[]) as w (space, name) on n.nspname = w.space and c.relname = w.name",
        [[each.schema_name for each in places], [each.name for each in places]],
    ).fetchall()
    return {str(Place(schema_name=space, name=name)): oid for space, name, oid in found}


# -- names in SQL that the server wrote -------------------------------------------------------------------------------


def retarget(text: str, names: Mapping[str, str]) -> str:
    """Return a statement with other relations in the place of some: keys and values are names as `Place` writes them.

    The rest stays as the server wrote it, letter for letter. A name is found by the grammar: as a relation, as its row
    type, or in a constant of the type regclass.
    """
    from postgast import parse, scan

    from segue.databases.postgresql.relations import descendants, strings, unwrapped

    raw = text.encode()
    tree = parse(text)
    edges: dict[int, bytes] = {}
    wanted: dict[int, int] = {}
    for statement in tree.stmts:
        for node in descendants(statement.stmt, "RangeVar"):
            new = names.get(str(Place(schema_name=node.schemaname, name=node.relname)))
            if new is not None:
                edges[node.location], wanted[node.location] = new.encode(), 3 if node.schemaname else 1
        for node in descendants(statement.stmt, "TypeName"):
            parts = strings(node.names)
            new = names.get(str(Place(schema_name=parts[0], name=parts[1]))) if len(parts) == 2 else None
            if new is not None:
                edges[node.location], wanted[node.location] = new.encode(), 3
        for node in descendants(statement.stmt, "TypeCast"):
            constant = unwrapped(node.arg)
            if type(constant).__name__ == "A_Const" and strings(node.type_name.names)[-1:] == ["regclass"]:
                new = names.get(str(parsed_name(constant.sval.sval)))
                if new is not None:
                    edges[constant.location] = literal(new).as_string(None).encode()
                    wanted[constant.location] = 1
    if not edges:
        return text
    tokens = list(scan(text).tokens)
    starts = {token.start: number for number, token in enumerate(tokens)}
    for location in sorted(edges, reverse=True):
        last = tokens[starts[location] + wanted[location] - 1]
        raw = raw[:location] + edges[location] + raw[last.end :]
    return raw.decode()


def retarget_expression(text: str, names: Mapping[str, str]) -> str:
    """Return an expression with other relations in the place of some; see `retarget`."""
    head = "SELECT ("
    return retarget(head + text + ")", names)[len(head) : -1]


def parsed_name(text: str) -> Place | None:
    """Return the relation that a name as SQL writes it means; None where it is no name."""
    from postgast import PgQueryError, parse

    from segue.databases.postgresql.relations import descendants

    try:
        tree = parse("TABLE " + text)
    except PgQueryError:
        return None
    for node in descendants(tree.stmts[0].stmt, "RangeVar"):
        return Place(schema_name=node.schemaname, name=node.relname)
    return None
