"""Finds whatever hangs on tables without being their own: what would stay with the old tables at a swap."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from segue.databases.postgresql.online import facts as catalogue
from segue.databases.postgresql.online.blueprint import Place
from segue.databases.postgresql.online.facts import everything_qualified, ident, listed, retarget, rows, verbatim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import LiteralString

    Connection = psycopg.Connection[Any]

Entry = dict[str, Any]

_FOREIGN_KEYS = """
select c.conname as name, c.oid::bigint as oid, c.conrelid::bigint as table_oid, c.confrelid::bigint as refers_oid,
    n.nspname as schema, t.relname as table_name, t.relkind::text as kind, m.nspname as refers_schema,
    r.relname as refers_name, pg_catalog.pg_get_constraintdef(c.oid) as definition, c.convalidated as validated,
    pg_catalog.obj_description(c.oid, 'pg_constraint') as comment,
    array(
        select a.attname::text from unnest(c.conkey) with ordinality as k (number, place)
        inner join pg_catalog.pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.number order by k.place
    ) as columns,
    array(
        select a.attname::text from unnest(c.confkey) with ordinality as k (number, place)
        inner join pg_catalog.pg_attribute as a on a.attrelid = c.confrelid and a.attnum = k.number order by k.place
    ) as refers_columns,
    array(
        select array[ln.nspname::text, l.relname::text] from pg_catalog.pg_partition_tree(c.conrelid) as p
        inner join pg_catalog.pg_class as l on p.relid = l.oid
        inner join pg_catalog.pg_namespace as ln on l.relnamespace = ln.oid
        where t.relkind = 'p' and p.isleaf order by ln.nspname, l.relname
    ) as leaves
from pg_catalog.pg_constraint as c
inner join pg_catalog.pg_class as t on c.conrelid = t.oid
inner join pg_catalog.pg_namespace as n on t.relnamespace = n.oid
inner join pg_catalog.pg_class as r on c.confrelid = r.oid
inner join pg_catalog.pg_namespace as m on r.relnamespace = m.oid
where c.contype = 'f' and c.conparentid = 0
    and (c.conrelid = any(%(oids)s::oid[]) or c.confrelid = any(%(oids)s::oid[]))
order by n.nspname, t.relname, c.conname
"""

# What depends on these objects: tables with their types, constraints, indexes and identity sequences, or functions.
# What belongs to the same relations is left out.
_DEPENDENTS = """
with relations as (
    select c.oid, c.reltype, c.reltoastrelid from pg_catalog.pg_class as c where c.oid = any(%(oids)s::oid[])
),

types as (
    select t.oid from pg_catalog.pg_type as t inner join relations as r on t.oid = r.reltype
    union all
    select t.typarray from pg_catalog.pg_type as t inner join relations as r on t.oid = r.reltype where t.typarray <> 0
),

bound as (
    select d.objid from pg_catalog.pg_depend as d
    inner join relations as r on d.refobjid = r.oid
    inner join pg_catalog.pg_class as s on d.objid = s.oid and s.relkind = 'S'
    where d.classid = 'pg_catalog.pg_class'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
        and d.deptype = 'i'
),

own (class, oid) as (
    select 'pg_catalog.pg_class'::regclass::oid, r.oid from relations as r
    union all
    select 'pg_catalog.pg_class'::regclass, r.reltoastrelid from relations as r
    union all
    select 'pg_catalog.pg_class'::regclass, i.indexrelid
    from pg_catalog.pg_index as i inner join relations as r on i.indrelid in (r.oid, r.reltoastrelid)
    union all
    select 'pg_catalog.pg_class'::regclass, b.objid from bound as b
    union all
    select 'pg_catalog.pg_type'::regclass, t.oid from types as t
    union all
    select 'pg_catalog.pg_constraint'::regclass, c.oid
    from pg_catalog.pg_constraint as c inner join relations as r on c.conrelid = r.oid
    union all
    select 'pg_catalog.pg_attrdef'::regclass, d.oid
    from pg_catalog.pg_attrdef as d inner join relations as r on d.adrelid = r.oid
    union all
    select 'pg_catalog.pg_trigger'::regclass, t.oid
    from pg_catalog.pg_trigger as t inner join relations as r on t.tgrelid = r.oid
    union all
    select 'pg_catalog.pg_rewrite'::regclass, u.oid
    from pg_catalog.pg_rewrite as u inner join relations as r on u.ev_class = r.oid
    union all
    select 'pg_catalog.pg_policy'::regclass, p.oid
    from pg_catalog.pg_policy as p inner join relations as r on p.polrelid = r.oid
    union all
    select 'pg_catalog.pg_statistic_ext'::regclass, s.oid
    from pg_catalog.pg_statistic_ext as s inner join relations as r on s.stxrelid = r.oid
    union all
    select 'pg_catalog.pg_publication_rel'::regclass, p.oid
    from pg_catalog.pg_publication_rel as p inner join relations as r on p.prrelid = r.oid
    union all
    select 'pg_catalog.pg_proc'::regclass, f.oid from unnest(%(functions)s::oid[]) as f (oid)
)

select d.classid::regclass::text as class, d.objid::bigint as oid, d.objsubid as part, d.deptype::text as how,
    d.refclassid::regclass::text as on_class, d.refobjid::bigint as on_oid, d.refobjsubid as on_part,
    pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) as what,
    pg_catalog.pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) as on_what
from pg_catalog.pg_depend as d
inner join own as o on d.refclassid = o.class and d.refobjid = o.oid
where not exists (select from own as w where w.class = d.classid and w.oid = d.objid)
    -- A sequence that a column owns.
    and not (d.classid = 'pg_catalog.pg_class'::regclass and d.deptype = 'a' and exists (
        select from pg_catalog.pg_class as s where s.oid = d.objid and s.relkind = 'S'))
order by 1, 2, 3
"""

_MEMBERSHIPS = """
select c.relname as name, e.extname as extension
from pg_catalog.pg_depend as d
inner join pg_catalog.pg_class as c on d.objid = c.oid
inner join pg_catalog.pg_extension as e on d.refobjid = e.oid
where d.classid = 'pg_catalog.pg_class'::regclass and d.refclassid = 'pg_catalog.pg_extension'::regclass
    and d.deptype = 'e' and d.objid = any(%(oids)s::oid[])
"""

# Tables above or below that are not taken along.
_FAMILY = """
select p.oid::regclass::text as parent, c.oid::regclass::text as child, c.relispartition as partition
from pg_catalog.pg_inherits as i
inner join pg_catalog.pg_class as p on i.inhparent = p.oid
inner join pg_catalog.pg_class as c on i.inhrelid = c.oid and c.relkind in ('r', 'p', 'f')
where (i.inhparent = any(%(oids)s::oid[]) or i.inhrelid = any(%(oids)s::oid[]))
    and not (i.inhparent = any(%(together)s::oid[]) and i.inhrelid = any(%(together)s::oid[]))
order by 1, 2
"""

_RULE = """
select u.oid::bigint as oid, u.ev_class::bigint as relation, u.rulename as name, c.relkind::text as kind,
    n.nspname as schema, c.relname as table_name, pg_catalog.pg_get_ruledef(u.oid) as definition
from pg_catalog.pg_rewrite as u
inner join pg_catalog.pg_class as c on u.ev_class = c.oid
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
where u.oid = any(%(oids)s::oid[])
order by n.nspname, c.relname, u.rulename
"""

_VIEW = """
select c.oid::bigint as oid, pg_catalog.pg_get_viewdef(c.oid) as definition, c.relispopulated as populated,
    c.relowner = current_user::regrole or pg_catalog.pg_has_role(c.relowner, 'MEMBER')
    and pg_catalog.has_schema_privilege(c.relowner, c.relnamespace, 'CREATE') as owner_may
from pg_catalog.pg_class as c where c.oid = any(%(oids)s::oid[])
order by c.oid
"""

_FUNCTION = """
select p.oid::bigint as oid, n.nspname as schema, p.proname as name,
    pg_catalog.format('%%I.%%I', n.nspname, p.proname) as qualified,
    pg_catalog.pg_get_function_identity_arguments(p.oid) as arguments, p.prokind::text as kind,
    p.prosqlbody is not null as has_body, pg_catalog.pg_get_userbyid(p.proowner) as owner,
    case when p.prokind in ('f', 'p') then pg_catalog.pg_get_functiondef(p.oid) end as definition,
    array(select t::bigint from unnest(
        p.proargtypes::oid[] || coalesce(p.proallargtypes, '{}') || p.prorettype || p.provariadic
    ) as t where t <> 0) as types,
    pg_catalog.obj_description(p.oid, 'pg_proc') as comment
from pg_catalog.pg_proc as p
inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
where p.oid = any(%(oids)s::oid[])
order by n.nspname, p.proname, 4
"""

_FUNCTION_GRANTS = """
select p.oid::bigint as oid, null::text as part, g.grantee::bigint = 0 as everyone,
    pg_catalog.pg_get_userbyid(g.grantee) as grantee, g.privilege_type as privilege, g.is_grantable as grantable,
    pg_catalog.pg_get_userbyid(g.grantor) as grantor, g.grantor = p.proowner as by_owner,
    pg_catalog.pg_has_role(g.grantor, 'MEMBER') as becomes
from pg_catalog.pg_proc as p
cross join lateral pg_catalog.aclexplode(
    coalesce(p.proacl, pg_catalog.acldefault('f'::"char", p.proowner))
) as g
where p.oid = any(%(oids)s::oid[])
order by 1, 4, 5
"""

_POLICY = """
select n.nspname as schema, c.relname as table_name, p.polname as name,
    pg_catalog.pg_get_expr(p.polqual, p.polrelid) as condition,
    pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) as check_condition
from pg_catalog.pg_policy as p
inner join pg_catalog.pg_class as c on p.polrelid = c.oid
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
where p.oid = any(%(oids)s::oid[])
order by 1, 2, 3
"""

_DEFAULT = """
select n.nspname as schema, c.relname as table_name, a.attname as column, c.relkind::text as kind,
    a.attgenerated <> '' as generated, pg_catalog.pg_get_expr(d.adbin, d.adrelid) as expression
from pg_catalog.pg_attrdef as d
inner join pg_catalog.pg_class as c on d.adrelid = c.oid
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
inner join pg_catalog.pg_attribute as a on d.adrelid = a.attrelid and d.adnum = a.attnum
where d.oid = any(%(oids)s::oid[])
order by 1, 2, 3
"""

_TRIGGER = """
select t.oid::bigint as oid, n.nspname as schema, c.relname as table_name, t.tgname as name,
    t.tgconstraint::bigint as foreign_key, t.tgisinternal as internal,
    case when not t.tgisinternal then pg_catalog.pg_get_triggerdef(t.oid) end as definition,
    t.tgenabled::text as enabled, pg_catalog.obj_description(t.oid, 'pg_trigger') as comment,
    coalesce(k.contype = 'f', false) as of_foreign_key
from pg_catalog.pg_trigger as t
inner join pg_catalog.pg_class as c on t.tgrelid = c.oid
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
left join pg_catalog.pg_constraint as k on t.tgconstraint = k.oid
where t.oid = any(%(oids)s::oid[])
order by 2, 3, 4
"""

_SHAPE = """
select a.attname, a.atttypid::bigint, a.atttypmod, a.attcollation::bigint from pg_catalog.pg_attribute as a
where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum
"""

_ROW_TYPES = """
select t.oid::bigint from pg_catalog.pg_type as t
inner join pg_catalog.pg_class as c on t.typrelid = c.oid or t.typelem = c.reltype and c.reltype <> 0
where c.oid = any(%(oids)s::oid[]) and t.typtype in ('c', 'b')
"""

_CHECKS = """
select c.oid::bigint as oid, c.contype::text as kind, c.confrelid = any(%(oids)s::oid[]) as incoming
from pg_catalog.pg_constraint as c where c.oid = any(%(wanted)s::oid[])
"""

_EVERYTHING_PUBLISHED = "select p.pubname as name from pg_catalog.pg_publication as p where p.puballtables order by 1"
_EVENT_TRIGGERS = """
select t.evtname as name from pg_catalog.pg_event_trigger as t where t.evtenabled in ('O', 'A') order by 1
"""


_SINGULAR = {"policies": "policy", "triggers": "trigger", "rules": "rule"}


@dataclass
class Followers:
    """What follows tables by their oid. Everything is JSON."""

    foreign_keys: list[Entry] = field(default_factory=list)
    #: Views and materialised views in the order in which they can be made; `anew` where they are dropped for it.
    views: list[Entry] = field(default_factory=list)
    functions: list[Entry] = field(default_factory=list)
    rules: list[Entry] = field(default_factory=list)
    policies: list[Entry] = field(default_factory=list)
    defaults: list[Entry] = field(default_factory=list)
    triggers: list[Entry] = field(default_factory=list)
    unexplained: list[Entry] = field(default_factory=list)
    notes: list[Entry] = field(default_factory=list)


def find(
    connection: Connection,
    own: Mapping[int, Entry],
    drawn: Mapping[str, Entry],
    changed: Iterable[tuple[int, int]],
    again: Iterable[str] = (),
    together: Iterable[int] = (),
) -> Followers:
    """Find everything that follows these tables, of which `own` are the facts by oid.

    `drawn`: definitions of the tables by the names that they will have, as `reading.Definition` has them: views,
    policies and the like are tried on temporary tables of that shape, which are rolled back. `changed`: columns (table,
    number) whose type changes or that go, for when nothing is drawn; `again`: views that are known to be made anew.
    `together`: the other tables of the change, which may inherit from these, or these from them.
    """
    with everything_qualified(connection), connection.transaction(force_rollback=True):
        return _Search(connection, own, drawn, frozenset(changed), frozenset(again), frozenset(together)).found


class _Search:
    def __init__(
        self,
        connection: Connection,
        own: Mapping[int, Entry],
        drawn: Mapping[str, Entry],
        changed: frozenset[tuple[int, int]],
        again: frozenset[str],
        together: frozenset[int],
    ) -> None:
        self._connection = connection
        self._oids = list(own)
        self._own = own
        self._drawn = drawn
        self._names = self._shapes()
        self._changed = changed
        self._again = again
        self._together = together | frozenset(own)
        self.found = Followers()
        self._views: dict[int, Entry] = {}
        self._functions: dict[int, Entry] = {}
        self._seen: set[tuple[str, int, int]] = set()
        self._edges: dict[tuple[str, int], set[tuple[str, int]]] = {}
        self._touching: set[int] = set()
        self._row_typed: set[int] = set()
        self._troubles: dict[int, str | None] = {}
        self.found.foreign_keys = self._foreign_keys()
        self._look()
        self._order()
        self._try_own()
        self._try_functions()

    def _rows(self, query: str, oids: Iterable[int], **more: Any) -> list[Entry]:
        return rows(self._connection, query, oids=list(oids), **more)

    def _refuse(self, what: str, reason: str, hint: str) -> None:
        self.found.unexplained.append({"what": what, "reason": reason, "hint": hint})

    def _foreign_keys(self) -> list[Entry]:
        found = []
        for row in self._rows(_FOREIGN_KEYS, self._oids):
            table = Place(schema_name=row.pop("schema"), name=row.pop("table_name"))
            refers = Place(schema_name=row.pop("refers_schema"), name=row.pop("refers_name"))
            outgoing = row.pop("table_oid") in self._oids
            incoming = row.pop("refers_oid") in self._oids
            row.pop("oid")
            row |= {"table": str(table), "refers": str(refers), "outgoing": outgoing, "incoming": incoming}
            row["partitioned"] = row.pop("kind") == "p"
            row["leaves"] = [str(Place(schema_name=space, name=name)) for space, name in row["leaves"]]
            found.append(row)
        return found

    def _look(self) -> None:
        """Go from the tables outwards, through whatever has to be dropped or moved along."""
        for row in self._rows(_MEMBERSHIPS, self._oids):
            self._refuse(
                f'table "{row["name"]}"',
                f'it belongs to the extension "{row["extension"]}"',
                "change it through an update of the extension",
            )
        for row in self._rows(_FAMILY, self._oids, together=list(self._together)):
            child, parent = row["child"], row["parent"]
            self._refuse(
                f"table {child}",
                f"it {'is a partition of' if row['partition'] else 'inherits from'} {parent}, and only one is changed",
                "change the parent: its partitions and children are taken along",
            )
        relations, functions = list(self._oids), list[int]()
        first = True
        while relations or functions:
            rest = self._rows(_DEPENDENTS, relations, functions=functions)
            relations, functions = self._classify(rest, relations, dropped=not first)
            first = False
        for oid, trouble in self._troubles.items():
            if trouble is not None:
                self._refuse(
                    f"view {self._views[oid]['place']}",
                    f"it would not work on the changed table: {trouble}",
                    "change the view beforehand so that it works on both, or drop it",
                )

    def _classify(self, dependents: list[Entry], of: list[int], *, dropped: bool) -> tuple[list[int], list[int]]:
        """Put dependents where they belong; return the relations and functions that are moved or dropped themselves."""
        by_class: dict[str, list[Entry]] = {}
        for row in dependents:
            by_class.setdefault(row["class"].removeprefix("pg_catalog."), []).append(row)
        relations: list[int] = []
        functions: list[int] = []
        types = {oid for row in self._rows(_ROW_TYPES, of) for oid in row.values()}
        relations += self._rules(by_class.pop("pg_rewrite", []), dropped=dropped)
        functions += self._bodies(by_class.pop("pg_proc", []), types, dropped=dropped)
        for kind, keep in (("pg_policy", self._policies), ("pg_attrdef", self._defaults)):
            found = by_class.pop(kind, [])
            keep([row for row in found if not self._gone({row["on_oid"]})])
            for row in found:
                if self._gone({row["on_oid"]}):
                    self._unknown(row)
        self._triggers(by_class.pop("pg_trigger", []))
        self._constraints(by_class.pop("pg_constraint", []), of)
        for row in by_class.pop("pg_class", []):
            if row["oid"] in self._views and row["part"]:
                self._row_typed.add(row["oid"])
                continue
            if row["oid"] not in self._together:  # it inherits, and goes along
                self._unknown(row)
        for left in by_class.values():
            for row in left:
                self._unknown(row)
        # A column of a view that has the row type cannot be replaced: the type is another one then.
        for oid in self._row_typed - set(relations):
            entry = self._views.get(oid)
            if entry is not None and not entry["anew"]:
                entry["anew"] = True
                relations.append(oid)
        return relations, functions

    def _unknown(self, row: Entry) -> None:
        key = (row["class"], row["oid"], row["part"])
        if key in self._seen or row["class"].endswith("pg_publication_rel"):
            return
        self._seen.add(key)
        reason = f"it depends on {row['on_what']}, which would leave it behind"
        hint = "drop it or change it to do without for the time of the change"
        if row["on_class"].endswith("pg_type"):
            reason = f"it uses the row type of a table that is replaced ({row['on_what']})"
            hint = "let it name the columns or use a type of its own"
        self._refuse(row["what"], reason, hint)

    def _rules(self, dependents: list[Entry], *, dropped: bool) -> list[int]:
        touching = {row["oid"] for row in dependents if (row["on_oid"], row["on_part"]) in self._changed}
        sources: dict[int, set[int]] = {}
        for row in dependents:
            sources.setdefault(row["oid"], set()).add(row["on_oid"])
        onward: list[int] = []
        for rule in self._rows(_RULE, {row["oid"] for row in dependents}):
            relation = rule["relation"]
            if rule["kind"] not in ("v", "m") or rule["name"] != "_RETURN":
                self._rule(rule)
                continue
            self._edges.setdefault(("view", relation), set()).update(("view", oid) for oid in sources[rule["oid"]])
            entry = self._views.get(relation)
            if entry is None:
                entry = self._view(relation)
                if entry is None:
                    continue
            again = (
                entry["kind"] == "m" or entry["place"] in self._again or (dropped and self._gone(sources[rule["oid"]]))
            )
            again = again or self._differs(entry, rule["oid"] in touching)
            if again and not entry["anew"]:
                entry["anew"] = True
                onward.append(relation)
        return onward

    def _gone(self, sources: set[int]) -> bool:
        """Return whether one of these is dropped; a materialised view is moved, and leaves its name."""
        return any(
            (oid in self._views and self._views[oid]["kind"] == "v" and self._views[oid]["anew"])
            or (oid in self._functions and self._functions[oid]["anew"])
            for oid in sources
        )

    def _rule(self, rule: Entry) -> None:
        key = ("pg_rewrite", rule["oid"], 0)
        if key not in self._seen:
            self._seen.add(key)
            table = Place(schema_name=rule["schema"], name=rule["table_name"])
            entry = {key: rule[key] for key in ("name", "kind", "definition")}
            self.found.rules.append({**entry, "table": str(table)})

    def _view(self, oid: int) -> Entry | None:
        for row in self._rows(_VIEW, [oid]):
            facts = catalogue.read(self._connection, [oid])[oid]
            entry = {
                "kind": facts["kind"],
                "place": str(catalogue.place(facts)),
                "definition": row["definition"].rstrip().removesuffix(";"),
                "populated": row["populated"],
                "owner_may": row["owner_may"],
                "anew": False,
                "facts": facts,
            }
            self._views[oid] = entry
            return entry
        return None

    def _differs(self, entry: Entry, touching: bool) -> bool:
        """Return whether a view's columns would be others; tried on the shadows, where there are any."""
        if not self._names:
            return touching
        oid = entry["facts"]["oid"]
        below = self._below(oid)
        # They keep their names, by which their own expressions call them; two schemas may have the same.
        taken = [definition["name"] for definition in self._drawn.values()]
        taken += [each["facts"]["name"] for each in [*below, entry]]
        if len(set(taken)) < len(taken):
            return touching
        names = dict(self._names)
        probe: list[tuple[Any, ...]] = []

        def act() -> None:
            # Views below it whose columns change are made beside, so that it is tried on them.
            for each in below:
                names[each["place"]] = self._make_probe(each, names)
            place = self._make_probe(entry, names)
            row = self._connection.execute("select %s::text::regclass::oid::bigint", [place]).fetchone()
            probe.extend(self._connection.execute(_SHAPE, [row[0] if row else 0]).fetchall())

        trouble = self._trouble(act)
        # Tried again when it is known which views below it are made anew.
        self._troubles[oid] = trouble
        if trouble is not None:
            return False
        return probe != self._connection.execute(_SHAPE, [oid]).fetchall()

    def _below(self, oid: int) -> list[Entry]:
        """Return the views that this one reads and that are made anew, each after those that it reads."""
        found: list[Entry] = []
        for _, source in sorted(self._edges.get(("view", oid), ())):
            if source in self._views and self._views[source]["anew"]:
                found += [each for each in self._below(source) if each not in found]
                found.append(self._views[source])
        return found

    def _make_probe(self, entry: Entry, names: Mapping[str, str]) -> str:
        """Make a view as it would be made; a materialised one, too, since it could not be on temporary tables."""
        name = entry["facts"]["name"]
        definition = retarget(entry["definition"], names)
        make = _compose("create temp view pg_temp.{v} as {q}", v=ident(name), q=verbatim(definition))
        self._connection.execute(make)
        return _temporary(name)

    def _trouble(self, act: Callable[[], object]) -> str | None:
        """Do something and take it back; return the server's complaint."""
        try:
            with self._connection.transaction(force_rollback=True):
                act()
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            return str(error.diag.message_primary or error)
        return None

    def _shapes(self) -> dict[str, str]:
        """Make temporary tables of the new shape; return their names by those of the tables."""
        names = {}
        for table, definition in self._drawn.items():
            # Expressions of the table's own call it by its name.
            name = definition["name"]
            words: list[sql.Composable] = [
                _compose(
                    "{name} {type}{collation}",
                    name=ident(column["name"]),
                    type=verbatim(column["type"]),
                    collation=verbatim(f" COLLATE {column['collation']}" if column["collation"] else ""),
                )
                for column in definition["columns"]
            ]
            # By it a view may group.
            words += [verbatim(key["definition"]) for key in definition["constraints"] if key["kind"] == "p"]
            make = _compose("create temp table pg_temp.{t} ({w})", t=ident(name), w=listed(words))
            if self._trouble(lambda make=make: self._connection.execute(make)) is None:  # type: ignore[misc]
                self._connection.execute(make)
                names[table] = _temporary(name)
        return names

    def _try_own(self) -> None:
        """Try policies, triggers and rules of the tables on their new shape."""
        from segue.databases.postgresql.online import cloning

        for facts in self._own.values():
            name = self._names.get(str(catalogue.place(facts)))
            if name is None:
                continue
            place = Place(schema_name="pg_temp", name=name.split(".", 1)[1].strip('"'))
            self._try_labels(facts, place)
            for kind in ("policies", "triggers", "rules"):
                for each, value in facts[kind].items():
                    if value.get("inherited"):
                        continue
                    bare = {**facts, "row_security": False, "force_row_security": False, kind: {each: value}}
                    make = getattr(cloning, kind)
                    more = {} if kind == "policies" else {"disabled": True}
                    trouble = self._trouble(lambda: self._run(make(bare, place, self._names, **more)))  # noqa: B023
                    if trouble is not None:
                        self._refuse(
                            f'{_SINGULAR[kind]} "{each}" on {catalogue.place(facts)}',
                            f"it would not work on the changed table: {trouble}",
                            "change it beforehand so that it works on both, or drop it",
                        )

    def _try_labels(self, facts: Entry, place: Place) -> None:
        """Try security labels of a table, and of views that are made anew: who gives them has to be there."""
        from segue.databases.postgresql.online import cloning

        views = [each["facts"] for each in self.found.views if each["anew"]]
        for one in (facts, *views):
            for label in one["labels"]:
                bare = {"labels": [{**label, "column": None}]}
                trouble = self._trouble(lambda: self._run(cloning.labels(bare, place)))  # noqa: B023
                if trouble is not None:
                    self._refuse(
                        f"security label of {catalogue.place(one)}",
                        f"{label['provider']} would have to set it anew: {trouble}",
                        "load its provider, or take the label away",
                    )

    def _run(self, statements: Iterable[str]) -> None:
        for text in statements:
            self._connection.execute(text.encode())

    def _try_functions(self) -> None:
        """Try functions whose bodies name the tables."""
        if not self._names:
            return
        views = {each["place"] for each in self.found.views}
        for each in self.found.functions:
            names = {key: value for key, value in self._names.items() if key not in views}
            text = retarget(each["definition"], names).replace(each["qualified"], _temporary(each["name"]), 1)
            if each["anew"]:  # what it reads is not there yet; the server looks at the body when it is made
                continue
            trouble = self._trouble(lambda text=text: self._connection.execute(text.encode()))  # type: ignore[misc]
            if trouble is not None:
                self._refuse(
                    f"function {each['qualified']}",
                    f"it would not work on the changed table: {trouble}",
                    "change it beforehand so that it works on both, or drop it",
                )

    def _bodies(self, dependents: list[Entry], types: set[int], *, dropped: bool) -> list[int]:
        onward = []
        sources: dict[int, set[int]] = {}
        for row in dependents:
            sources.setdefault(row["oid"], set()).add(row["on_oid"])
        for row in self._rows(_FUNCTION, sources):
            oid = row.pop("oid")
            self._edges.setdefault(("function", oid), set()).update(
                (kind, each) for each in sources[oid] for kind in ("view", "function")
            )
            if oid in self._functions:
                continue
            signature = f"{row['schema']}.{row['name']}({row['arguments']})"
            if types & set(row.pop("types")):
                self._refuse(
                    f"function {signature}",
                    "the row type of a table that is replaced is among its arguments or is its result",
                    "let it take or return a type of its own, or the columns",
                )
                continue
            if not row["has_body"] or row["definition"] is None:
                self._refuse(f"function {signature}", "it depends on a table that is replaced", "drop it beforehand")
                continue
            row["anew"] = dropped and self._gone(sources[oid])
            row["grants"] = [
                {key: value for key, value in grant.items() if key != "oid"}
                for grant in self._rows(_FUNCTION_GRANTS, [oid])
            ]
            self._functions[oid] = row
            if row["anew"]:
                onward.append(oid)
        return onward

    def _policies(self, dependents: list[Entry]) -> None:
        for row in self._rows(_POLICY, self._new("pg_policy", dependents)):
            table = Place(schema_name=row.pop("schema"), name=row.pop("table_name"))
            self.found.policies.append({**row, "table": str(table)})

    def _defaults(self, dependents: list[Entry]) -> None:
        for row in self._rows(_DEFAULT, self._new("pg_attrdef", dependents)):
            table = Place(schema_name=row.pop("schema"), name=row.pop("table_name"))
            if row.pop("generated"):
                self._refuse(
                    f'column "{row["column"]}" of {table}',
                    "its value is generated with the help of a table that is replaced",
                    "drop the expression for the time of the change",
                )
            else:
                self.found.defaults.append({**row, "table": str(table)})

    def _triggers(self, dependents: list[Entry]) -> None:
        for row in self._rows(_TRIGGER, self._new("pg_trigger", dependents)):
            if row.pop("of_foreign_key"):
                continue
            table = Place(schema_name=row.pop("schema"), name=row.pop("table_name"))
            if row.pop("internal"):
                self._refuse(
                    f'trigger "{row["name"]}" on {table}', "it checks a deferred constraint", "drop the constraint"
                )
                continue
            row.pop("foreign_key")
            row.pop("oid")
            self.found.triggers.append({**row, "table": str(table)})

    def _constraints(self, dependents: list[Entry], of: list[int]) -> None:
        kinds = {row["oid"]: row for row in self._rows(_CHECKS, of, wanted=[each["oid"] for each in dependents])}
        for row in dependents:
            if kinds[row["oid"]]["kind"] != "f":
                self._unknown(row)

    def _new(self, name: str, dependents: list[Entry]) -> set[int]:
        fresh = {row["oid"] for row in dependents if (name, row["oid"], 0) not in self._seen}
        self._seen |= {(name, oid, 0) for oid in fresh}
        return fresh

    def _order(self) -> None:
        """Put views and functions after what they use."""
        from graphlib import TopologicalSorter

        known = {("view", oid): entry for oid, entry in self._views.items()}
        known |= {("function", oid): entry for oid, entry in self._functions.items()}
        sorter: TopologicalSorter[tuple[str, int]] = TopologicalSorter()
        for key in sorted(known):
            sorter.add(key, *sorted(source for source in self._edges.get(key, ()) if source in known and source != key))
        for kind, oid in sorter.static_order():
            entry = known[kind, oid]
            entry["uses"] = sorted(called(known[key]) for key in self._edges.get((kind, oid), ()) if key in known)
            (self.found.views if kind == "view" else self.found.functions).append(entry)


def called(entry: Entry) -> str:
    """Return what a view or function is called, as nothing else is."""
    return str(entry["place"]) if "place" in entry else f"{entry['qualified']}({entry['arguments']})"


def published_all(connection: Connection) -> list[str]:
    """Return the publications that are for all tables."""
    return [row["name"] for row in rows(connection, _EVERYTHING_PUBLISHED)]


def event_triggers(connection: Connection) -> list[str]:
    """Return the event triggers that will fire."""
    return [row["name"] for row in rows(connection, _EVENT_TRIGGERS)]


def _compose(template: LiteralString, **parts: sql.Composable) -> sql.Composed:
    return sql.SQL(template).format(**parts)


def _temporary(name: str) -> str:
    """Return the name of something temporary as `Place` would write it."""
    return str(Place(schema_name="pg_temp", name=name))
