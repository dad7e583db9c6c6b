"""Compares a table with what takes its place, in everything but the rows: what the change does not explain is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

from segue.databases.postgresql.online import dependents, facts, following, reading, shadow, writing
from segue.databases.postgresql.online.blueprint import Place
from segue.databases.postgresql.online.cloning import renamed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import psycopg

    from segue.databases.postgresql.online.blueprint import Blueprint, Member

    Connection = psycopg.Connection[Any]

Entry = dict[str, Any]
#: Lines for people by what they are about: ("policy", "clerk_reads", "roles") -> "clerk".
Lines = dict[tuple[str, ...], str]

FORWARD = "forward"


def compare(connection: Connection, blueprint: Blueprint, member: Member) -> list[str]:
    """Compare a member's original as it is now with its shadow as it is prepared; return what nobody asked for.

    What only the swap does is left out: foreign keys, publications, and whether triggers and rules are enabled.
    """
    found: list[str] = []
    if member.drawn:
        wanted = reading.Definition.model_validate(member.drawn)
        there = reading.read(connection, str(member.forward.into))
        # Of a table that others inherit from, they are members of their own.
        there = shadow.without(shadow.own(there), {index.name for index in member.indexes if index.extra})
        found += [f"{member.table}: {line}" for line in writing.differences(shadow.own(wanted), there)]
    places = [relation.place for relation in member.old]
    oids = facts.find_oids(connection, places)
    old = facts.read(connection, list(oids.values()))
    new_oids = facts.find_oids(connection, [relation.place for relation in member.new])
    new = {each["name"]: each for each in facts.read(connection, list(new_oids.values())).values()}
    back = {
        str(mine.place): str(relation.place)
        for each in blueprint.members
        for mine in each.new
        for relation in each.old
        if relation.place.name == mine.place.name
    }
    # Written alike on both sides, in quotes.
    same = {name: name for name in back.values()}
    for each in old.values():
        if each["name"] not in new:
            continue
        expected = dict(_explained(member, each, dict(_own(each, same, member.dependents.get("columns")))))
        actual = dict(_own(new[each["name"]], back, None))
        found += _differ(str(facts.place(each)), expected, _without_extras(member, actual), member)
        found += _acting(new[each["name"]], "before it")
    found += _grown(connection, blueprint, member, old)
    return found


def _without_extras(member: Member, lines: Lines) -> Lines:
    extra = {index.name for index in member.indexes if index.extra}
    return {key: value for key, value in lines.items() if not (key[0] == "index" and key[1] in extra)}


def _acting(each: Entry, when: str) -> Iterator[str]:
    """Say what would fire for what Segue itself writes into a table that is not the application's."""
    for kind in ("triggers", "rules"):
        for name, one in each[kind].items():
            if one["enabled"] != "D":
                yield f'{facts.place(each)}: {kind[:-1]} "{name}" is enabled {when}'


def _grown(connection: Connection, blueprint: Blueprint, member: Member, old: Mapping[int, Entry]) -> Iterator[str]:
    """Say what has come to hang on the table, or does not any more, since the change was drawn up."""
    known = member.dependents
    family = [each.oid for each in blueprint.members]
    now = following.find(connection, old, dependents.definitions(blueprint.members), (), together=family)
    for kind, word in _KINDS.items():
        before = {_name(kind, each): _what(kind, each) for each in known[kind]}
        after = {_name(kind, each): _what(kind, each) for each in getattr(now, kind)}
        for name in sorted({*before, *after}):
            if name not in before:
                yield f"{member.table}: {word} {name} depends on it since the change began, and would be left behind"
            elif name not in after:
                yield f"{member.table}: {word} {name} does not depend on it any more, and would be made anew"
            elif before[name] != after[name]:
                yield f"{member.table}: {word} {name} was changed since the change began, and would be put back"
    refused = {each["what"] for each in known["unexplained"]}
    for each in now.unexplained:
        if each["what"] not in refused:
            yield f"{member.table}: {each['what']}: {each['reason']}"
    for each in old.values():
        recorded = known["relations"].get(str(facts.place(each)), each)
        for part, word in (("publications", "publication"), ("subscriptions", "subscription")):
            if recorded[part] != each[part]:
                yield f"{facts.place(each)}: its {word}s have changed since the change began"


_KINDS = {
    "foreign_keys": "foreign key",
    "views": "view",
    "functions": "function",
    "rules": "rule",
    "policies": "policy",
    "defaults": "default",
    "triggers": "trigger",
}


def _name(kind: str, each: Entry) -> str:
    if kind in ("views", "functions"):
        return following.called(each)
    return f'"{each["column" if kind == "defaults" else "name"]}" of {each["table"]}'


def _what(kind: str, each: Entry) -> list[Any]:
    if kind == "views":
        return [each["definition"], sorted(map(str, _own(each["facts"], {}, None).items()))]
    keys = ("definition", "validated", "comment", "condition", "check_condition", "expression", "enabled", "owner")
    return [each.get(key) for key in keys]


# -- what a relation has of its own


def _own(each: Entry, names: Mapping[str, str], columns: Mapping[str, str | None] | None) -> Lines:
    """Return everything of a relation that is cloned, under the names that the columns have in the new table."""
    lines: Lines = {
        ("owner",): each["owner"],
        ("row security",): f"{'on' if each['row_security'] else 'off'}, {_forced(each)}",
        ("replica identity",): each["replica_identity"],
    }
    if each["comment"] is not None:
        lines["comment",] = each["comment"]
    if each["type_comment"] is not None:
        lines["comment on its type",] = each["type_comment"]
    _grants(lines, each["grants"], columns, ("grant",))
    for old, column in each["columns"].items():
        name = renamed(columns, old)
        if column["comment"] is not None and name is not None:
            lines["comment on column", name] = column["comment"]
    for label in each["labels"]:
        name = renamed(columns, label["column"])
        lines["security label", label["provider"], name or ""] = label["label"]
    _rules(lines, each, names)
    for name, constraint in each["constraints"].items():
        if constraint["kind"] != "f":
            _comment(lines, constraint, "constraint", name)
    _indexes(lines, each, names)
    for sequence in each["sequences"]:
        if sequence["identity"]:
            name = sequence["name"]
            _comment(lines, sequence, "sequence", name)
            _grants(lines, sequence["grants"], None, ("sequence", name, "grant"))
    return lines


def _rules(lines: Lines, each: Entry, names: Mapping[str, str]) -> None:
    for name, policy in each["policies"].items():
        lines["policy", name] = " ".join(
            [
                "permissive" if policy["permissive"] else "restrictive",
                policy["command"],
                ", ".join(policy["roles"]),
                _expression(policy["condition"], names),
                _expression(policy["check_condition"], names),
            ]
        )
        _comment(lines, policy, "policy", name)
    for name, trigger in each["triggers"].items():
        # On a partition it is the parent's: whether it is there is told of the parent.
        if not trigger["inherited"]:
            lines["trigger", name] = facts.retarget(trigger["definition"], names)
            _comment(lines, trigger, "trigger", name)
            for extension in trigger["extensions"]:
                lines["trigger", name, "extension", extension] = "depends on it"
    for name, rule in each["rules"].items():
        lines["rule", name] = facts.retarget(rule["definition"], names)
        _comment(lines, rule, "rule", name)


def _indexes(lines: Lines, each: Entry, names: Mapping[str, str]) -> None:
    for name, index in each["indexes"].items():
        _comment(lines, index, "index", name)
        for extension in index["extensions"]:
            lines["index", name, "extension", extension] = "depends on it"
        if index["clustered"]:
            lines["index", name, "CLUSTER"] = "marked"
        if index["identifies"]:
            lines["index", name, "replica identity"] = "is it"
    for name, statistics in each["statistics"].items():
        head = "SELECT "
        shown = facts.retarget(head + statistics["columns"], names).removeprefix(head)
        lines["statistics", name] = f"({', '.join(sorted(statistics['kinds']))}) on {shown}"
        lines["statistics", name, "target"] = str(statistics["target"])
        _comment(lines, statistics, "statistics", name)


def _forced(each: Entry) -> str:
    return "forced on its owner" if each["force_row_security"] else "not for its owner"


def _comment(lines: Lines, each: Entry, kind: str, name: str) -> None:
    if each["comment"] is not None:
        lines[kind, name, "comment"] = each["comment"]


def _grants(
    lines: Lines, grants: Sequence[Entry], columns: Mapping[str, str | None] | None, head: tuple[str, ...]
) -> None:
    for grant in grants:
        part = renamed(columns, grant["part"])
        if grant["part"] is not None and part is None:
            continue
        whom = "PUBLIC" if grant["everyone"] else grant["grantee"]
        what = grant["privilege"] + (f" ({part})" if part else "")
        # By whom is as near as can be where the session may not become that role.
        by = grant["grantor"] if grant["becomes"] and not grant["by_owner"] else "its owner"
        option = " with grant option" if grant["grantable"] else ""
        lines[(*head, what, "to", whom, "by", by)] = f"granted{option}"


def _expression(text: str | None, names: Mapping[str, str]) -> str:
    return "" if text is None else f"({facts.retarget_expression(text, names)})"


def _explained(member: Member, each: Entry, lines: Lines) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what the shadow must have: without what the change takes away, and with what its ALTERs have set."""
    drawn = _drawn(member, each["name"])
    constraints = {one["name"] for one in drawn["constraints"]} if drawn else set()
    constraints |= {one["not_null_name"] for one in drawn["columns"] if one["not_null_name"]} if drawn else set()
    indexes = {one["name"]: one for one in drawn["indexes"]} if drawn else {}
    kept = {one["sequence"]["name"] for one in drawn["columns"] if one["sequence"]} if drawn else set()
    gone = {one["name"] for one in each["sequences"] if one["identity"]} - kept
    for key, value in lines.items():
        if drawn and key[0] == "constraint" and key[1] not in constraints:
            continue
        if drawn and key[0] == "sequence" and key[1] in gone:
            continue
        if drawn and key[0] == "index":
            index = indexes.get(key[1])
            if index is None or (key[-1] == "CLUSTER" and not index["clustered"]):
                continue
        if key == ("replica identity",) and drawn and drawn["replica_identity"] != "d":
            yield key, drawn["replica_identity"]
        elif key == ("row security",) and drawn:
            on = each["row_security"] or drawn["row_security"]
            force = each["force_row_security"] or drawn["force_row_security"]
            yield key, f"{'on' if on else 'off'}, {_forced({'force_row_security': force})}"
        else:
            yield key, value
    for name, index in indexes.items():
        for mark, words in (("clustered", "CLUSTER"), ("replica_identity", "replica identity")):
            if index[mark] and ("index", name, words) not in lines:
                yield ("index", name, words), "marked" if mark == "clustered" else "is it"


def _drawn(member: Member, name: str) -> Entry | None:
    stack = [member.drawn] if member.drawn else []
    while stack:
        each = stack.pop()
        if each["name"] == name:
            return each
        stack += each["below"]
    return None


def _differ(table: str, expected: Lines, actual: Lines, member: Member) -> Iterator[str]:
    for key in sorted({*expected, *actual}):
        words = " ".join(f'"{word}"' if number == 1 else word for number, word in enumerate(key))
        if key not in actual:
            yield f"{table}: {words} is missing: {expected[key]}"
        elif key not in expected:
            yield f"{table}: {words} was not there before: {actual[key]}"
        elif expected[key] != actual[key] and not (_retyped(member) and _alike(key[0], expected[key], actual[key])):
            yield f"{table}: {words} is {actual[key]} instead of {expected[key]}"


# -- the same expression over other types


def _retyped(member: Member) -> bool:
    """Return whether any column has another type, so that the server writes other casts into expressions."""
    old = {column["name"]: column["type"] for column in member.definition.get("columns", ())}
    return any(old.get(column["name"], column["type"]) != column["type"] for column in member.drawn.get("columns", ()))


def _alike(kind: str, one: str, other: str) -> bool:
    """Return whether two definitions differ in casts alone."""
    if kind not in ("policy", "trigger", "rule", "statistics", "view", "publication"):
        return False
    return _bare(kind, one) == _bare(kind, other)


def _bare(kind: str, text: str) -> str:
    """Return a definition without casts and without the parentheses that come with them."""
    from postgast import PgQueryError, deparse, parse

    words = text
    if kind in ("policy", "statistics", "publication"):
        head, _, rest = text.partition(" on " if kind == "statistics" else " (")
        words = f"SELECT {rest}" if kind == "statistics" else f"SELECT ({rest}".replace(") (", "), (")
        text = head
    else:
        text = ""
    try:
        tree = parse(words)
    except PgQueryError:
        return text + words
    _strip(tree)
    return text + deparse(tree)


def _strip(message: Any) -> None:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for node in [value] if hasattr(value, "ListFields") else value:
            while type(node).__name__ == "Node" and node.WhichOneof("node") == "type_cast":
                inner = type(node)()
                inner.CopyFrom(node.type_cast.arg)
                node.CopyFrom(inner)
            if type(node).__name__ == "A_Const" and node.WhichOneof("val") in ("ival", "fval"):
                number = str(node.ival.ival) if node.WhichOneof("val") == "ival" else node.fval.fval
                node.sval.sval = number
            _strip(node)


# -- after the swap


def compare_after(connection: Connection, blueprint: Blueprint, direction: str = FORWARD) -> list[str]:
    """Compare what hangs on the tables after a swap with what hung on the originals when the change was drawn up."""
    found: list[str] = []
    for member in blueprint.members:
        now = facts.read(connection, _standing(connection, [member], direction))
        for each in now.values():
            recorded = _recorded(member, each["name"])
            if recorded is not None:
                found += _compare_table(connection, member, recorded, each, direction)
        found += _compare_followers(connection, blueprint, member, now, direction)
        found += _compare_gone(connection, blueprint, member, direction)
    return found


def _standing(connection: Connection, members: Sequence[Member], direction: str) -> list[int]:
    """Return the oids of the tables that the application has after a swap."""
    places = [
        Place(schema_name=each.goes_to, name=each.place.name) if direction == FORWARD else each.place
        for member in members
        for each in (member.new if direction == FORWARD else member.old)
    ]
    return list(facts.find_oids(connection, places).values())


def _left(connection: Connection, members: Sequence[Member], blueprint: Blueprint, direction: str) -> list[int]:
    """Return the oids of the tables that left at a swap."""
    away = _away(blueprint, direction)
    places = [
        Place(schema_name=away, name=each.place.name)
        for member in members
        for each in (member.old if direction == FORWARD else member.new)
    ]
    return list(facts.find_oids(connection, places).values())


def _away(blueprint: Blueprint, direction: str) -> str:
    return blueprint.old_schema if direction == FORWARD else blueprint.new_schema


def _compare_gone(connection: Connection, blueprint: Blueprint, member: Member, direction: str) -> Iterator[str]:
    """Say what still acts on the side that left, and which sequence would give out its numbers again."""
    away = _away(blueprint, direction)
    gone = facts.read(connection, _left(connection, [member], blueprint, direction))
    for each in gone.values():
        yield from _acting(each, "after the swap")
        for publication in each["publications"]:
            yield f'{facts.place(each)}: publication "{publication}" still sends it'
        for sequence in each["sequences"]:
            recorded = _recorded(member, each["name"]) or {"sequences": ()}
            came = next((one for one in recorded["sequences"] if one["name"] == sequence["name"]), None)
            if came is None or not came["identity"]:
                continue
            here = Place(schema_name=came["schema"], name=came["name"])
            there = Place(schema_name=away, name=came["name"])
            row = connection.execute(_BEHIND.format(new=here.sql, old=there.sql)).fetchone()
            if row is not None and row[0]:
                yield f"{here}: the sequence is behind the one before it, and would give out numbers again"
    left = following.find(connection, gone, {}, (), together=_left(connection, blueprint.members, blueprint, direction))
    for kind, word in _KINDS.items():
        for one in getattr(left, kind):
            # A materialised view that was moved along stays with it; a foreign key would be checked still.
            if kind == "foreign_keys" or not str(one.get("place", one.get("table", ""))).startswith(f'"{away}"'):
                yield f"{member.table}: {word} {_name(kind, one)} is on the table that left"


def _compare_types(connection: Connection, member: Member, now: Entry, direction: str) -> Iterator[str]:
    """Say which sequence was not widened with its column, or not made narrower again though it could have been."""
    wanted = {
        each["sequence"]: each["type" if direction == FORWARD else "was"]
        for each in member.dependents.get("sequences_widened", ())
    }
    for each in now["sequences"]:
        place = Place(schema_name=each["schema"], name=each["name"])
        type_ = wanted.get(str(place), each["type"])
        if each["identity"] or each["type"] == type_:
            continue
        row = connection.execute(sql.SQL("select last_value from {}").format(place.sql)).fetchone()
        if row is None or row[0] <= dependents.GREATEST[type_]:
            yield f"{place}: the sequence is of type {each['type']} instead of {type_}"


_BEHIND = sql.SQL(
    "select case when s.seqincrement > 0 then (n.last_value, n.is_called) < (o.last_value, o.is_called) "
    "else (n.last_value, o.is_called) > (o.last_value, n.is_called) end "
    "from {new} as n, {old} as o, pg_catalog.pg_sequence as s where s.seqrelid = n.tableoid"
)


def _recorded(member: Member, name: str) -> Entry | None:
    for each in member.dependents["relations"].values():
        if each["name"] == name:
            return each  # type: ignore[no-any-return]
    return None


def _compare_table(
    connection: Connection, member: Member, recorded: Entry, now: Entry, direction: str
) -> Iterator[str]:
    forward = direction == FORWARD
    columns = member.dependents.get("columns") if forward else None
    table = str(facts.place(now))
    expected = _own(recorded, {}, columns) | _moved(recorded, columns)
    if forward:
        expected = dict(_explained(member, recorded, expected))
    actual = _without_extras(member, _own(now, {}, None) | _moved(now, None))
    yield from _differ(table, expected, actual, member)
    yield from _compare_types(connection, member, now, direction)


def _moved(each: Entry, columns: Mapping[str, str | None] | None) -> Lines:
    """Return what only the swap brings along."""
    lines: Lines = {}
    for kind in ("triggers", "rules"):
        for name, one in each[kind].items():
            lines[kind[:-1], name, "state"] = _STATES[one["enabled"]]
    for name, one in each["publications"].items():
        shown = one["columns"] and ", ".join(
            sorted(str(renamed(columns, column)) for column in one["columns"] if renamed(columns, column) is not None)
        )
        lines["publication", name] = f"[{shown or 'all columns'}] ({one['condition'] or 'true'})"
    for name in each["subscriptions"]:
        lines["subscription", name] = "writes it"
    for name, one in each["statistics"].items():
        lines["statistics", name, "schema"] = one["schema"]
        lines["statistics", name, "owner"] = one["owner"]
    for one in each["sequences"]:
        column = renamed(columns, one["column"])
        if column is not None:
            lines["sequence", one["name"], "of"] = f"{one['schema']}, column {column}"
    return lines


_STATES = {"O": "enabled", "R": "enabled on replicas", "A": "always enabled", "D": "disabled"}


def _compare_followers(
    connection: Connection, blueprint: Blueprint, member: Member, now: Mapping[int, Entry], direction: str
) -> Iterator[str]:
    anew = [each["place"] for each in member.dependents["views"] if each["anew"]]
    there = following.find(connection, now, {}, (), anew, _standing(connection, blueprint.members, direction))
    retyped = direction == FORWARD and any(_retyped(each) for each in blueprint.members)
    for kind, word in _KINDS.items():
        wanted = member.dependents[kind]
        if kind == "foreign_keys":
            wanted = dependents.wanted_keys(member, blueprint, direction)
        before = {_name(kind, each): _state(kind, each) for each in wanted}
        after = {_name(kind, each): _state(kind, each) for each in getattr(there, kind)}
        for name in sorted({*before, *after}):
            if name not in after:
                yield f"{member.table}: {word} {name} is not on the new table"
            elif name not in before:
                yield f"{member.table}: {word} {name} was not there before"
            else:
                yield from _differ_in(f"{member.table}: {word} {name}", before[name], after[name], retyped)


def _state(kind: str, each: Entry) -> Lines:
    """Return what a follower is."""
    lines: Lines = {}
    if kind == "views":
        lines = _own(each["facts"], {}, None) | _moved(each["facts"], None)
        lines["options",] = ", ".join(sorted(each["facts"]["options"]))
        lines["view",] = each["definition"]
        for name, index in each["facts"]["indexes"].items():
            lines["index", name] = index["definition"]
        for name, column in each["facts"]["columns"].items():
            lines["default of", name] = str(column["expression"])
            lines["statistics target of", name] = str(column["statistics"])
        return lines
    if kind == "functions":
        _grants(lines, each["grants"], None, ("grant",))
        return lines | {("owner",): each["owner"], ("comment",): str(each["comment"])}
    for key in ("comment", "enabled", "validated"):
        if key in each:
            lines[key,] = str(each[key])
    for key in ("condition", "check_condition", "expression"):
        if key in each:
            lines["policy", key] = f" ({each[key]})"
    if kind in ("triggers", "rules"):
        lines[kind[:-1],] = each["definition"]
    if kind == "foreign_keys" and not each.get("changed"):
        lines["definition",] = str(each["definition"]).removesuffix(" NOT VALID")
    return lines


def _differ_in(what: str, before: Lines, after: Lines, retyped: bool) -> Iterator[str]:
    for key in sorted({*before, *after}):
        one, other = before.get(key), after.get(key)
        if key == ("definition",) and one is None:
            continue  # the change adds it, in our words
        if one == other or (one and other and retyped and _alike(key[0], one, other)):
            continue
        yield f"{what}: {' '.join(key)} is {other} instead of {one}"
