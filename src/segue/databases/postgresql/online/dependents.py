"""Whatever hangs on a table: found, cloned on its shadow, moved at the swap, and moved back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.databases.postgresql.online import cloning, facts, following, moves
from segue.databases.postgresql.online.blueprint import Place
from segue.databases.postgresql.online.cloning import guarded
from segue.databases.postgresql.online.facts import compose, ident, listed, literal, retarget, verbatim

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg
    from psycopg import sql

    from segue.databases.postgresql.online.blueprint import Blueprint, Member, Relation

    Connection = psycopg.Connection[Any]

Entry = dict[str, Any]

FORWARD = "forward"
EXCLUSIVE = "ACCESS EXCLUSIVE"
#: What types of sequences hold at most.
GREATEST = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}


# -- what there is ----------------------------------------------------------------------------------------------------


def find(connection: Connection, member: Member, others: Sequence[Member]) -> Entry:
    """Return everything that hangs on a member's tables, for `Member.dependents`.

    Where the new definition is drawn up (`Member.drawn`), what depends on the tables is tried on temporary tables of
    that shape, in a transaction that is rolled back.
    `foreign_keys_added` (entries as in `foreign_keys`) and `foreign_keys_dropped` (names) are whoever draws up the
    change's to fill in. Names are qualified, as they are before the swap: run after it, they mean the new tables.
    """
    places = [relation.place for relation in member.old]
    oids = facts.find_oids(connection, places)
    own = facts.read(connection, list(oids.values()))
    family = [each.oid for each in others]
    drawn = definitions([member, *others])
    followers = following.find(connection, own, drawn, _changed(member, own), together=family)
    found: Entry = {
        "major": connection.info.server_version // 10000,
        "relations": {str(facts.place(each)): each for each in own.values()},
        "foreign_keys": followers.foreign_keys,
        "views": followers.views,
        "functions": followers.functions,
        "rules": followers.rules,
        "policies": followers.policies,
        "defaults": followers.defaults,
        "triggers": followers.triggers,
        "unexplained": followers.unexplained,
    }
    found["superuser"] = connection.info.parameter_status("is_superuser") == "on"
    found["not_ours"] = [] if found["superuser"] else _not_ours(connection, found)
    return found


def _not_ours(connection: Connection, found: Entry) -> list[str]:
    """Return what would have to be altered along and belongs to somebody whom the session's role is no member of."""
    every = [(f"view {each['place']}", each["facts"]["owner"]) for each in found["views"]]
    every += [(f"function {following.called(each)}", each["owner"]) for each in found["functions"]]
    tables = {each["table"] for part in ("rules", "policies", "defaults", "triggers") for each in found[part]}
    tables |= {each["table"] for each in found["foreign_keys"] if each["incoming"]}
    every += [(f"table {name}", who) for name, who in connection.execute(_OWNERS, [sorted(tables)])]
    sent = sorted({name for relation in found["relations"].values() for name in relation["publications"]})
    every += [(f'publication "{name}"', who) for name, who in connection.execute(_PUBLICATION_OWNERS, [sent])]
    mine = connection.execute(
        "select who from unnest(%s::text[]) as w (who) where pg_catalog.pg_has_role(who::name, 'USAGE')",
        [[who for _, who in every]],
    ).fetchall()
    ours = {who for (who,) in mine}
    lines = [
        f'{what}: it belongs to "{who}"; let Segue\'s role become that role' for what, who in every if who not in ours
    ]
    refers = sorted({each["refers"] for each in found["foreign_keys"] if each["outgoing"]})
    for (name,) in connection.execute(_NOT_REFERABLE, [refers]):
        lines.append(
            f"table {name}: a foreign key refers to it, and Segue's role may not lock it or refer to it; grant "
            "REFERENCES and DELETE on it, or let the role become its owner"
        )
    return lines


_OWNERS = """
select w.name, pg_catalog.pg_get_userbyid(c.relowner)::text from unnest(%s::text[]) as w (name)
inner join pg_catalog.pg_class as c on c.oid = pg_catalog.to_regclass(w.name)
"""
_PUBLICATION_OWNERS = """
select p.pubname::text, pg_catalog.pg_get_userbyid(p.pubowner)::text from pg_catalog.pg_publication as p
where p.pubname = any(%s::text[]) order by 1
"""
_NOT_REFERABLE = """
select w.name from unnest(%s::text[]) as w (name)
where not pg_catalog.has_table_privilege(pg_catalog.to_regclass(w.name), 'REFERENCES')
    or not pg_catalog.has_table_privilege(pg_catalog.to_regclass(w.name), 'UPDATE, DELETE, TRUNCATE')
"""


def definitions(members: Sequence[Member]) -> dict[str, Entry]:
    """Return the new definitions of all tables of a change by the names that they will have."""
    found = {}
    for member in members:
        home = {relation.place.name: relation.goes_to for relation in member.new}
        stack = [member.drawn] if member.drawn else []
        while stack:
            each = stack.pop()
            stack += each["below"]
            found[str(Place(schema_name=home.get(each["name"], member.table.schema_name), name=each["name"]))] = each
    return found


def _changed(member: Member, own: dict[int, Entry]) -> list[tuple[int, int]]:
    """Return the columns of the originals whose type is another one in the shadow, or that go."""
    new = {column.into: column.type for column in member.forward.columns}
    found = []
    for oid, relation in own.items():
        for column, each in relation["columns"].items():
            if not each["generated"] and new.get(column) != each["type"]:
                found.append((oid, each["number"]))
    return found


def refusals(dependents: Entry) -> list[str]:
    """Return what cannot come along, each with the reason and what to do about it."""
    renamed = {old for old, new in dependents.get("columns", {}).items() if new not in (None, old)}
    found = []
    for each in dependents["unexplained"]:
        words = set(each["reason"].replace(".", " ").replace('"', " ").split())
        missing = "does not exist" in each["reason"] and bool(renamed & words)
        hint = (
            "leave RENAME COLUMN to a `sql` step, which takes a moment and takes it along" if missing else each["hint"]
        )
        found.append(f"{each['what']}: {each['reason']}; {hint}")
    found += dependents["not_ours"]
    for name, relation in dependents["relations"].items():
        if relation["subscriptions"] and not dependents["superuser"]:
            found.append(
                f'table {name}: the subscription "{relation["subscriptions"][0]}" writes it, and only a superuser '
                "can tell it of another table; use a superuser for the change, or end the subscription"
            )
        if relation["of_type"]:
            found.append(f"table {name}: it is a typed table; take the type off it with ALTER TABLE … NOT OF")
        gone = {old for old, new in dependents.get("columns", {}).items() if old != new}
        for publication, each in relation["publications"].items():
            if each["condition"] and gone & _columns_of(each["condition"]):
                found.append(
                    f'table {name}: publication "{publication}" sends rows by a column that goes or is renamed; take '
                    "the row filter away beforehand"
                )
    names = [each["name"] for each in dependents["relations"].values()]
    names += [view["facts"]["name"] for view in dependents["views"] if view["kind"] == "m"]
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.append(
            f'materialised view "{name}": another relation that moves has its name in another schema; rename one'
        )
    if not dependents["superuser"]:
        for view in dependents["views"]:
            if view["anew"] and view["kind"] == "v" and not view["owner_may"] and not dependents["not_ours"]:
                found.append(
                    f'view {view["place"]}: it has to be made anew, and its owner "{view["facts"]["owner"]}" could '
                    "not be given it; let Segue's role become that role, and that role CREATE in the view's schema"
                )
    return found


def _columns_of(expression: str) -> set[str]:
    """Return the columns that an expression over one table names."""
    from segue.databases.postgresql import parse
    from segue.databases.postgresql.relations import descendants, strings

    tree = parse.node(f"SELECT ({expression})")
    return {strings(node.fields)[-1] for node in descendants(tree, "ColumnRef") if strings(node.fields)}


def warnings(connection: Connection, member: Member, blueprint: Blueprint) -> list[str]:
    """Return what people should know before such a swap."""
    dependents = member.dependents
    found = [*dependents.get("warnings", ()), *moves.warnings(member)]
    for view in dependents["views"]:
        if view["kind"] == "m":
            found.append(
                f"materialised view {view['place']} is built anew beside the old one: it then shows the rows as they "
                "were shortly before the swap"
            )
        elif view["anew"]:
            found.append(f"view {view['place']} is dropped and made anew, because its columns change their types")
    for name in following.published_all(connection):
        found.append(
            f'publication "{name}" is for all tables: what is copied into the shadow is sent to its subscribers, too'
        )
    for name, relation in dependents["relations"].items():
        found += _sent(member, name, relation)
        for each in relation["sequences"]:
            if each["identity"]:
                found.append(
                    f"currval() of the identity sequence of {name} fails after the swap until the session's next insert"
                )
        for grant in relation["grants"]:
            if not grant["by_owner"] and not grant["becomes"]:
                found.append(
                    f'{grant["privilege"]} on {name} was granted to "{grant["grantee"]}" by "{grant["grantor"]}", '
                    "whom Segue's role may not become: it is granted by the owner"
                )
    for name in following.event_triggers(connection):
        found.append(f'event trigger "{name}" fires for what Segue creates and alters, and must not fail on it')
    new = {column.into: column.type for column in member.forward.columns}
    root = dependents["relations"].get(str(member.table), {"columns": {}})
    retyped = [name for name, each in root["columns"].items() if name in new and new[name] != each["type"]]
    if retyped or list(new) != [name for name, each in root["columns"].items() if not each["generated"]]:
        columns = f" ({', '.join(retyped)})" if retyped else ""
        found.append(
            f"a server-prepared statement that returns columns of {member.table} whose types change{columns}, or all "
            "of its columns, fails once per connection after the swap (SQLSTATE 0A000); others do not"
        )
    return found


def _sent(member: Member, name: str, relation: Entry) -> Iterator[str]:
    """Say what those who subscribe to a table need beforehand; they know it by its name, and go on with the new one."""
    added = _added(member)
    for publication, each in relation["publications"].items():
        if each["columns"] is None and added:
            yield (
                f'publication "{publication}" holds {name}: its subscribers need the columns that come '
                f"({', '.join(added)}) before the swap, or they stop at the next row"
            )


def _added(member: Member) -> list[str]:
    """Return the columns that only the new table has; those that the server computes are not sent."""
    known = set(member.dependents.get("columns", {}).values())
    new: list[Entry] = member.drawn.get("columns", [])
    return [column["name"] for column in new if column["name"] not in known and not column["generated"]]


# -- sides ------------------------------------------------------------------------------------------------------------


class _Sides:
    """Which table leaves its place and which one comes there, in a direction."""

    def __init__(self, member: Member, blueprint: Blueprint, direction: str) -> None:
        self.member = member
        self.blueprint = blueprint
        self.forward = direction == FORWARD
        self.entry = member.dependents
        #: The schema that the leaving side is in afterwards, and from which the arriving one came.
        self.away = blueprint.old_schema if self.forward else blueprint.new_schema
        self.origin = blueprint.new_schema if self.forward else blueprint.old_schema
        self.leaving = _by_name(member.old if self.forward else member.new)
        self.arriving = _by_name(member.new if self.forward else member.old)

    def home(self, relation: Relation) -> Place:
        """Return where a relation is while it is the application's."""
        if any(relation is each for each in self.member.new):
            return Place(schema_name=relation.goes_to, name=relation.place.name)
        return relation.place

    @property
    def columns(self) -> dict[str, str | None] | None:
        """Return what the original's columns are called in the arriving table."""
        return self.entry.get("columns") if self.forward else None

    def relation(self, name: str) -> Entry | None:
        """Return the facts of an original by its bare name."""
        for each in self.entry["relations"].values():
            if each["name"] == name:
                return each  # type: ignore[no-any-return]
        return None

    def _foreign_keys(self, *, arriving: bool, way: str) -> list[Entry]:
        """Return the foreign keys of one side: the original ones, and on the new side what the change makes of them."""
        kept = self.entry["foreign_keys"]
        if self.forward == arriving:
            kept = [each for each in kept if not _is_dropped(each, self.blueprint)]
            kept += [_added_key(each, self.member) for each in self.entry.get("foreign_keys_added", ())]
        tables = {str(member.table) for member in self.blueprint.members} - {str(self.member.table)}
        if way == "outgoing":
            return [each for each in kept if each["outgoing"]]
        # Between two members it is the referring one's.
        return [each for each in kept if each["incoming"] and not each["outgoing"] and each["table"] not in tables]

    def foreign_keys(self, *, arriving: bool) -> list[Entry]:
        """Return all foreign keys that come or go with this member, the incoming ones last."""
        return [
            *self._foreign_keys(arriving=arriving, way="outgoing"),
            *self._foreign_keys(arriving=arriving, way="incoming"),
        ]


def wanted_keys(member: Member, blueprint: Blueprint, direction: str) -> list[Entry]:
    """Return the foreign keys, both ways, that the table is to have after a swap; `changed` ones are worded by us."""
    kept: list[Entry] = member.dependents["foreign_keys"]
    if direction != FORWARD:
        return kept
    found = [each for each in kept if not _is_dropped(each, blueprint)]
    for other in blueprint.members:
        for each in other.dependents.get("foreign_keys_added", ()):
            if other.number == member.number or each["refers"] == str(member.table):
                found.append(_added_key(each, other))
    return found


def _is_dropped(key: Entry, blueprint: Blueprint) -> bool:
    return any(
        str(member.table) == key["table"] and key["name"] in member.dependents.get("foreign_keys_dropped", ())
        for member in blueprint.members
    )


def _added_key(added: Entry, member: Member) -> Entry:
    """Return a foreign key that the change adds as `find` would return one."""
    key = {"comment": None, **added, "table": str(member.table), "outgoing": True}
    return {**key, "incoming": added["refers"] == str(member.table), "changed": True}


def _by_name(relations: Sequence[Relation]) -> dict[str, Relation]:
    return {each.place.name: each for each in relations}


def _together(blueprint: Blueprint, part: str) -> list[Entry]:
    """Return what hangs on several members' tables once."""
    found: dict[str, Entry] = {}
    for member in blueprint.members:
        for each in member.dependents[part]:
            found[f"{each['table']} {each['name' if 'name' in each else 'column']}"] = each
    return list(found.values())


def _views_and_functions(blueprint: Blueprint) -> list[Entry]:
    """Return views, materialised views and functions that follow any member once, each after what it uses."""
    from graphlib import TopologicalSorter

    found: dict[str, Entry] = {}
    for member in blueprint.members:
        for each in [*member.dependents["views"], *member.dependents["functions"]]:
            name = following.called(each)
            other = found.get(name, each)
            # What only follows one member may be dropped for the sake of another.
            together = {"anew": each["anew"] or other["anew"], "uses": [*each["uses"], *other["uses"]]}
            found[name] = {**each, **together}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name, each in found.items():
        sorter.add(name, *(used for used in each["uses"] if used in found))
    return [found[name] for name in sorter.static_order()]


# -- before the swap --------------------------------------------------------------------------------------------------


def before(member: Member, blueprint: Blueprint) -> list[str]:
    """Return what the shadow is given while nobody uses it, to be run in one transaction; it may be run again.

    Its indexes and constraints have to be there: what they have on them is given to those that there are. Triggers and
    rules are made disabled.
    """
    sides = _Sides(member, blueprint, FORWARD)
    names = _to_shadows(blueprint)
    found: list[str] = []
    for relation in member.new:
        original = sides.relation(relation.place.name)
        if original is None:
            root = sides.relation(member.table.name)
            if root is not None:
                found.append(cloning.let_own(blueprint.new_schema, root["owner"]))
                found += cloning.owner("TABLE", relation.place, root["owner"])
            continue
        found.append(cloning.let_own(blueprint.new_schema, original["owner"]))
        found += _clone(original, relation.place, names, sides.columns)
    return found


def _clone(
    original: Entry, place: Place, names: dict[str, str], columns: dict[str, str | None] | None
) -> Iterator[str]:
    yield from cloning.cleared(original, place)
    yield from cloning.statistics(original, place, names)
    yield from cloning.triggers(original, place, names, disabled=True)
    yield from cloning.rules(original, place, names, disabled=True)
    yield from cloning.identity(original, place)
    yield from cloning.index_facts(original, place)
    yield from cloning.comments(original, place, columns=columns)
    yield from cloning.sequences(original, place)
    yield from cloning.labels(original, place, columns=columns)
    yield from cloning.policies(original, place, names)
    yield from cloning.owner("TABLE", place, original["owner"])
    yield from cloning.grants("TABLE", place.sql, original["owner"], original["grants"], place, columns)
    for sequence in original["sequences"]:
        if sequence["identity"]:
            here = Place(schema_name=place.schema_name, name=sequence["name"])
            yield from cloning.sequence_grants(here, original["owner"], sequence["grants"])


def _to_shadows(blueprint: Blueprint) -> dict[str, str]:
    """Return the shadows' names by the originals'."""
    found = {}
    for member in blueprint.members:
        new = {relation.place.name: relation.place for relation in member.new}
        for relation in member.old:
            if relation.place.name in new:
                found[str(relation.place)] = str(new[relation.place.name])
    return found


def matviews_before(member: Member, blueprint: Blueprint, direction: str = FORWARD) -> list[str]:
    """Return what builds the materialised views beside the old ones, in one transaction; nothing on the way back.

    They are all members': given once, with the last one. To be run late, when the shadows are up to date.
    """
    if direction != FORWARD or member.number != blueprint.members[-1].number:
        return []
    names = _to_shadows(blueprint)
    found: list[str] = []
    for view in _views_and_functions(blueprint):
        if view.get("kind") == "m":
            place = Place(schema_name=blueprint.new_schema, name=view["facts"]["name"])
            found.append(cloning.let_own(blueprint.new_schema, view["facts"]["owner"]))
            found += _build_matview(view, place, names)
            names[view["place"]] = str(place)
    return found


def _build_matview(view: Entry, place: Place, names: dict[str, str]) -> Iterator[str]:
    original = view["facts"]
    yield compose("DROP MATERIALIZED VIEW IF EXISTS {place}", place=place.sql)
    yield compose(
        "CREATE MATERIALIZED VIEW {place}{options}{space} AS {query} WITH NO DATA",
        place=place.sql,
        options=verbatim(compose(" WITH ({o})", o=cloning.options(original["options"])) if original["options"] else ""),
        space=verbatim(compose(" TABLESPACE {s}", s=ident(original["tablespace"])) if original["tablespace"] else ""),
        query=verbatim(retarget(view["definition"], names)),
    )
    here = {**names, view["place"]: str(place)}
    for index in original["indexes"].values():
        yield retarget(index["definition"], here)
    for name, column in original["columns"].items():
        if column["statistics"] >= 0:
            yield compose(
                "ALTER MATERIALIZED VIEW {v} ALTER COLUMN {c} SET STATISTICS {n}",
                v=place.sql,
                c=ident(name),
                n=literal(column["statistics"]),
            )
    yield from cloning.index_facts(original, place)
    for name, index in original["indexes"].items():
        if index["clustered"]:
            yield compose("ALTER MATERIALIZED VIEW {v} CLUSTER ON {i}", v=place.sql, i=ident(name))
    yield from cloning.comments(original, place, "MATERIALIZED VIEW")
    yield from cloning.labels(original, place, "MATERIALIZED VIEW")
    yield from cloning.owner("MATERIALIZED VIEW", place, original["owner"])
    yield from cloning.grants("TABLE", place.sql, original["owner"], original["grants"], place)
    if view["populated"]:
        # As its owner, who may see less than we do.
        yield compose(_REFRESH, how=verbatim(""), v=place.sql).strip()
        yield compose("ANALYZE {v}", v=place.sql)


_REFRESH = """
DO $segue$
BEGIN
    PERFORM pg_catalog.set_config('row_security', 'on', true);
    REFRESH MATERIALIZED VIEW {how}{v};
    PERFORM pg_catalog.set_config('row_security', 'off', true);
END
$segue$
"""


# -- the swap ---------------------------------------------------------------------------------------------------------


def swap_out(member: Member, blueprint: Blueprint, direction: str) -> list[str]:
    """Return what is run under the swap's locks before any table moves."""
    sides = _Sides(member, blueprint, direction)
    found: list[str] = []
    if member.number == blueprint.members[0].number:
        found += _drop_followers(blueprint, direction)
    for key in sides.foreign_keys(arriving=False):
        found += _drop_foreign_key(sides, key)
    for relation in sides.leaving.values():
        place = sides.home(relation)
        original = sides.relation(relation.place.name)
        if original is None:
            continue
        found += _leave(original, place)
        for sequence in original["sequences"]:
            if not sequence["identity"]:
                found.append(compose("ALTER SEQUENCE {s} OWNED BY NONE", s=_sequence(sequence).sql))
        for name, each in original["statistics"].items():
            here = Place(schema_name=each["schema"], name=name)
            found.append(compose("ALTER STATISTICS {s} SET SCHEMA {to}", s=here.sql, to=ident(sides.away)))
        for publication in original["publications"]:
            drop = "ALTER PUBLICATION {p} DROP TABLE {only}{t}"
            found.append(compose(drop, p=ident(publication), only=_only(original), t=place.sql))
    return found


def _leave(original: Entry, place: Place) -> Iterator[str]:
    """Disable what must not fire for what Segue writes into the table that was left."""
    for name, trigger in original["triggers"].items():
        if not trigger["inherited"] and trigger["enabled"] != "D":
            yield cloning.trigger_state(place, name, "D")
    for name, rule in original["rules"].items():
        if rule["enabled"] != "D":
            yield cloning.rule_state(place, name, "D")


def _only(original: Entry) -> sql.Composable:
    """Leave out the tables that inherit: they are members of their own."""
    return verbatim("ONLY " if original["kind"] == "r" else "")


def _sequence(sequence: Entry) -> Place:
    return Place(schema_name=sequence["schema"], name=sequence["name"])


def _drop_foreign_key(sides: _Sides, key: Entry) -> Iterator[str]:
    # One that was added to partitions may not have come to its table yet.
    loose = verbatim("IF EXISTS " if _by_partition(sides, key, arriving=False) else "")
    drop = "ALTER TABLE {table} DROP CONSTRAINT {loose}{name}"
    yield compose(drop, table=verbatim(key["table"]), loose=loose, name=ident(key["name"]))
    for place in _by_partition(sides, key, arriving=False):
        yield compose(drop, table=place.sql, loose=loose, name=ident(key["name"]))


def _by_partition(sides: _Sides, key: Entry, *, arriving: bool) -> list[Place]:
    """Return the partitions that are given a foreign key one by one: before 18 it cannot be NOT VALID on their root."""
    if sides.entry["major"] >= 18:
        return []
    if key["table"] != str(sides.member.table):
        return [place for name in key.get("leaves", ()) if (place := facts.parsed_name(name)) is not None]
    relations = (sides.arriving if arriving else sides.leaving).values()
    root = next((each for each in relations if each.place.name == sides.member.table.name), None)
    if root is None or root.kind != "p":
        return []
    return [sides.home(each) for each in relations if each.leaf]


def _drop_followers(blueprint: Blueprint, direction: str) -> Iterator[str]:
    """Drop or move away what cannot stay where it is; the last first."""
    away = blueprint.old_schema if direction == FORWARD else blueprint.new_schema
    for each in _together(blueprint, "triggers"):
        yield compose("DROP TRIGGER {name} ON {table}", name=ident(each["name"]), table=verbatim(each["table"]))
    for each in reversed(_views_and_functions(blueprint)):
        if "arguments" in each:
            if each["anew"]:
                yield compose("DROP {kind} {name}", kind=_routine(each), name=_signature(each))
        elif each["kind"] == "m":
            yield compose("ALTER MATERIALIZED VIEW {v} SET SCHEMA {to}", v=verbatim(each["place"]), to=ident(away))
        elif each["anew"]:
            yield compose("DROP VIEW {v}", v=verbatim(each["place"]))


def _routine(each: Entry) -> sql.Composable:
    return verbatim("PROCEDURE" if each["kind"] == "p" else "FUNCTION")


def _signature(each: Entry) -> sql.Composable:
    name = Place(schema_name=each["schema"], name=each["name"])
    return verbatim(compose("{name}({arguments})", name=name.sql, arguments=verbatim(each["arguments"])))


def swap_in(member: Member, blueprint: Blueprint, direction: str) -> list[str]:
    """Return what is run under the swap's locks after all tables have moved."""
    sides = _Sides(member, blueprint, direction)
    found: list[str] = []
    for relation in sides.arriving.values():
        original = sides.relation(relation.place.name)
        if original is not None:
            found += _arrive(sides, original, sides.home(relation))
    for key in sides.foreign_keys(arriving=True):
        found += _add_foreign_key(sides, key)
    if member.number == blueprint.members[-1].number:
        found += _make_followers(blueprint, direction)
    return found


def _arrive(sides: _Sides, original: Entry, place: Place) -> Iterator[str]:
    for sequence in original["sequences"]:
        yield from _own_sequence(sides, sequence, place)
    for name, each in original["statistics"].items():
        came = Place(schema_name=sides.origin, name=name)
        yield compose("ALTER STATISTICS {s} SET SCHEMA {to}", s=came.sql, to=ident(each["schema"]))
    for name, trigger in original["triggers"].items():
        if not trigger["inherited"] and trigger["enabled"] != "D":
            yield cloning.trigger_state(place, name, trigger["enabled"])
    for name, trigger in original["triggers"].items():
        root = sides.relation(sides.member.table.name)
        if trigger["inherited"] and root and trigger["enabled"] != root["triggers"].get(name, trigger)["enabled"]:
            yield cloning.trigger_state(place, name, trigger["enabled"], only=True)
    for name, rule in original["rules"].items():
        if rule["enabled"] != "D":
            yield cloning.rule_state(place, name, rule["enabled"])
    for name, each in original["publications"].items():
        condition = each["condition"]
        columns = each["columns"] and [cloning.renamed(sides.columns, column) for column in each["columns"]]
        yield compose(
            "ALTER PUBLICATION {p} ADD TABLE {only}{t}{columns}{condition}",
            p=ident(name),
            only=_only(original),
            t=place.sql,
            columns=verbatim(
                "" if columns is None else compose(" ({c})", c=listed([ident(column) for column in columns if column]))
            ),
            condition=verbatim("" if condition is None else compose(" WHERE ({c})", c=verbatim(condition))),
        )
    if original["subscriptions"]:
        yield compose(
            "UPDATE pg_catalog.pg_subscription_rel SET srrelid = {new}::pg_catalog.regclass "
            "WHERE srrelid = {old}::pg_catalog.regclass",
            new=literal(str(place)),
            old=literal(str(Place(schema_name=sides.away, name=place.name))),
        )


def _own_sequence(sides: _Sides, sequence: Entry, place: Place) -> Iterator[str]:
    """Give a sequence to the column that came, or let the column's own go on from where the other was."""
    here = _sequence(sequence)
    if sequence["identity"]:
        gone = Place(schema_name=sides.away, name=sequence["name"])
        yield compose(
            "SELECT pg_catalog.setval({new}, last_value, is_called) FROM {old}",
            new=literal(str(here)),
            old=gone.sql,
        )
        return
    name = cloning.renamed(sides.columns, sequence["column"])
    if name is not None:
        column = ident(place.schema_name, place.name, name)
        yield guarded(cloning.has_column(place, name), compose("ALTER SEQUENCE {s} OWNED BY {c}", s=here.sql, c=column))
    for wider in sides.entry.get("sequences_widened", ()):
        if wider["sequence"] == str(here):
            yield from _retype(here, wider["type"] if sides.forward else wider["was"], sequence)


def _retype(here: Place, wanted: str, sequence: Entry) -> Iterator[str]:
    """Change a sequence's type with its column's, unless it has gone further than that type does."""
    most = GREATEST
    alter = compose("ALTER SEQUENCE {s} AS {type}", s=here.sql, type=verbatim(wanted))
    fits = compose(
        "SELECT FROM {s} WHERE last_value BETWEEN {least} AND {most}",
        s=here.sql,
        least=literal(-most[wanted] - 1),
        most=literal(most[wanted]),
    )
    # A limit of its own stays, unless it lies outside.
    if most[wanted] < most[sequence["type"]] and sequence["maximum"] > most[wanted]:
        alter += compose(" MAXVALUE {m}", m=literal(most[wanted]))
    yield guarded(fits, alter)


def _add_foreign_key(sides: _Sides, key: Entry) -> Iterator[str]:
    add = "ALTER TABLE {table} ADD CONSTRAINT {name} {definition}"
    leaves = _by_partition(sides, key, arriving=True)
    tables: list[sql.Composable] = [place.sql for place in leaves] or [verbatim(key["table"])]
    for table in tables:
        yield compose(add, table=table, name=ident(key["name"]), definition=verbatim(_not_valid(key)))
        if not leaves and key.get("comment"):
            yield _comment_foreign_key(key)


def _comment_foreign_key(key: Entry) -> str:
    return compose(
        "COMMENT ON CONSTRAINT {name} ON {table} IS {text}",
        name=ident(key["name"]),
        table=verbatim(key["table"]),
        text=literal(key["comment"]),
    )


def _not_valid(key: Entry) -> str:
    definition = str(key["definition"]).removesuffix(" NOT VALID")
    if definition.endswith("NOT ENFORCED"):
        return definition
    return definition + " NOT VALID"


def _make_followers(blueprint: Blueprint, direction: str) -> Iterator[str]:
    origin = blueprint.new_schema if direction == FORWARD else blueprint.old_schema
    if any(member.dependents["functions"] for member in blueprint.members):
        # To look at their bodies as their callers see them is their owners' affair: row security would stop us.
        yield "SET LOCAL check_function_bodies = off"
    for each in _views_and_functions(blueprint):
        if "arguments" in each:
            yield from _make_function(each)
        elif each["kind"] == "m":
            came = Place(schema_name=origin, name=each["facts"]["name"])
            yield compose("ALTER MATERIALIZED VIEW {v} SET SCHEMA {to}", v=came.sql, to=ident(each["facts"]["schema"]))
        else:
            yield from _make_view(each)
    for each in _together(blueprint, "rules"):
        yield str(each["definition"]).replace("CREATE RULE", "CREATE OR REPLACE RULE", 1).rstrip().removesuffix(";")
    for each in _together(blueprint, "policies"):
        yield cloning.alter_policy(each)
    for each in _together(blueprint, "defaults"):
        yield compose(
            "ALTER {kind} {table} ALTER COLUMN {c} SET DEFAULT {e}",
            kind=verbatim("VIEW" if each["kind"] == "v" else "TABLE"),
            table=verbatim(each["table"]),
            c=ident(each["column"]),
            e=verbatim(each["expression"]),
        )
    for each in _together(blueprint, "triggers"):
        table = verbatim(each["table"])
        yield each["definition"]
        if each["enabled"] != "O":
            yield compose(
                "ALTER TABLE {t} {state} TRIGGER {n}",
                t=table,
                state=verbatim(cloning.STATES[each["enabled"]]),
                n=ident(each["name"]),
            )
        if each["comment"] is not None:
            yield compose(
                "COMMENT ON TRIGGER {n} ON {t} IS {c}", n=ident(each["name"]), t=table, c=literal(each["comment"])
            )


def _make_function(each: Entry) -> Iterator[str]:
    yield each["definition"].rstrip().removesuffix(";")
    if each["anew"]:
        kind = "PROCEDURE" if each["kind"] == "p" else "FUNCTION"
        name = _signature(each)
        yield compose("ALTER {kind} {n} OWNER TO {o}", kind=verbatim(kind), n=name, o=ident(each["owner"]))
        yield from cloning.grants(kind, name, each["owner"], each["grants"])
        yield from cloning.comment(kind, each["comment"], name)


def _make_view(each: Entry) -> Iterator[str]:
    original = each["facts"]
    place = facts.place(original)
    yield compose(
        "CREATE {replace}VIEW {v}{options} AS {query}",
        replace=verbatim("" if each["anew"] else "OR REPLACE "),
        v=place.sql,
        options=verbatim(compose(" WITH ({o})", o=cloning.options(original["options"])) if original["options"] else ""),
        query=verbatim(each["definition"]),
    )
    if not each["anew"]:
        return
    for name, column in original["columns"].items():
        if column["expression"] is not None:
            yield compose(
                "ALTER VIEW {v} ALTER COLUMN {c} SET DEFAULT {e}",
                v=place.sql,
                c=ident(name),
                e=verbatim(column["expression"]),
            )
    yield from cloning.triggers(original, place, {}, disabled=False)
    yield from cloning.rules(original, place, {}, disabled=False)
    yield from cloning.comments(original, place, "VIEW")
    yield from cloning.labels(original, place, "VIEW")
    yield from cloning.owner("VIEW", place, original["owner"])
    yield from cloning.grants("TABLE", place.sql, original["owner"], original["grants"], place)


# -- locks, and what comes after --------------------------------------------------------------------------------------


def locks(member: Member, blueprint: Blueprint, direction: str) -> list[tuple[str, str]]:
    """Return the tables that the swap of a member locks, with the mode: referenced ones, the member, referring ones.

    Views are not among them: LOCK TABLE would lock every table below them as well; see `views_first`.
    """
    sides = _Sides(member, blueprint, direction)
    found: dict[str, str] = {}
    keys = [*sides.foreign_keys(arriving=False), *sides.foreign_keys(arriving=True)]
    dropped = {(key["table"], key["name"]) for key in sides.foreign_keys(arriving=False)}
    for key in keys:
        if key["refers"] != str(member.table):
            # To drop a foreign key takes both its triggers, to add one only a lock against writers.
            mode = EXCLUSIVE if (key["table"], key["name"]) in dropped else "SHARE ROW EXCLUSIVE"
            if found.get(key["refers"]) != EXCLUSIVE:
                found[key["refers"]] = mode
    found[str(member.table)] = EXCLUSIVE
    for key in keys:
        if key["table"] != str(member.table):
            found[key["table"]] = EXCLUSIVE
    views = {each["place"] for each in member.dependents["views"]}
    for part in ("policies", "rules", "defaults", "triggers"):
        for each in member.dependents[part]:
            if each["table"] not in views and each.get("kind", "r") != "v":
                found[each["table"]] = EXCLUSIVE
    return list(found.items())


def views_first(blueprint: Blueprint) -> list[str]:
    """Return statements that lock the dependent views and nothing below them, and change nothing.

    Readers lock a view before its tables: a swap that came the other way round would meet them in a deadlock. They are
    for the beginning of the swap's transaction, before its tables are locked.
    """
    wanted = {}
    for each in _views_and_functions(blueprint):
        if "arguments" not in each:
            wanted[each["place"]] = "VIEW" if each["kind"] == "v" else "MATERIALIZED VIEW"
    for each in [*_together(blueprint, "rules"), *_together(blueprint, "defaults")]:
        if each["kind"] == "v":
            wanted[each["table"]] = "VIEW"
    found = []
    for name, kind in wanted.items():
        place = facts.parsed_name(name)
        if place is not None:
            # To move it where it is does nothing, under the lock that is wanted.
            to = ident(place.schema_name)
            found.append(compose("ALTER {k} {v} SET SCHEMA {s}", k=verbatim(kind), v=place.sql, s=to))
    return found


def after(member: Member, blueprint: Blueprint, direction: str) -> list[str]:
    """Return what is done after the swap, each statement in a transaction of its own; all may be run again."""
    sides = _Sides(member, blueprint, direction)
    found: list[str] = []
    for key in sides.foreign_keys(arriving=True):
        definition = str(key["definition"])
        leaves = _by_partition(sides, key, arriving=True)
        tables: list[sql.Composable] = [place.sql for place in leaves] or [verbatim(key["table"])]
        validate = "ALTER TABLE {t} VALIDATE CONSTRAINT {n}"
        if key["validated"] and not definition.endswith("NOT ENFORCED"):
            found += [compose(validate, t=table, n=ident(key["name"])) for table in tables]
        if leaves:
            missing = cloning.has_constraint(member.table, key["name"])
            add = compose(
                "ALTER TABLE {table} ADD CONSTRAINT {name} {definition}",
                table=verbatim(key["table"]),
                name=ident(key["name"]),
                definition=verbatim(definition.removesuffix(" NOT VALID")),
            )
            found.append(guarded(f"SELECT WHERE NOT EXISTS ({missing})", add))
            if key.get("comment"):
                found.append(_comment_foreign_key(key))
    if member.number == blueprint.members[-1].number:
        for view in _views_and_functions(blueprint):
            if view.get("kind") == "m" and view.get("populated"):
                found += _refresh(view)
    return found


def _refresh(view: Entry) -> Iterator[str]:
    """Refresh a materialised view where that keeps nobody from reading it."""
    if any(index["is_unique"] and " WHERE " not in index["definition"] for index in view["facts"]["indexes"].values()):
        yield compose(_REFRESH, how=verbatim("CONCURRENTLY "), v=verbatim(view["place"])).strip()
