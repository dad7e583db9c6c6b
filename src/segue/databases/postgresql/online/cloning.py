"""Writes the statements that give one relation what another has: owner, grants, policies, triggers, comments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segue.databases.postgresql.online.blueprint import Place
from segue.databases.postgresql.online.facts import (
    compose,
    ident,
    listed,
    literal,
    retarget,
    retarget_expression,
    verbatim,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from psycopg import sql

Facts = dict[str, Any]
#: What has become of columns, by their old names; None for those that went.
Columns = Mapping[str, str | None]

_COMMANDS = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "*": "ALL"}
STATES = {"O": "ENABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS", "D": "DISABLE"}
_KINDS = {"d": "ndistinct", "f": "dependencies", "m": "mcv"}
_WORDS = {"S": "SEQUENCE", "v": "VIEW", "m": "MATERIALIZED VIEW"}

# Whatever the maker's default privileges have given away. What the owner may is set by the grants that follow.
_REVOKE_DEFAULTS = """
DO $segue$
DECLARE
    grantee record;
BEGIN
    FOR grantee IN
        SELECT DISTINCT g.grantee AS role FROM pg_catalog.pg_class AS c
        CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) AS g
        WHERE c.oid = {name}::pg_catalog.regclass AND g.grantee <> c.relowner
    LOOP
        EXECUTE pg_catalog.format(
            'REVOKE ALL ON {kind} %s FROM %s CASCADE', {name},
            CASE grantee.role WHEN 0 THEN 'PUBLIC'
                ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(grantee.role)) END
        );
    END LOOP;
END
$segue$
"""

_GUARDED = """
DO $segue$
BEGIN
    IF EXISTS ({condition}) THEN
        {statement};
    END IF;
END
$segue$
"""


def guarded(condition: str, statement: str) -> str:
    """Return a statement that is run only where a query returns a row."""
    # A function's or a comment's own text may hold the mark that quotes the block.
    text = compose(_GUARDED, condition=verbatim(condition), statement=verbatim(statement)).strip()
    mark = "segue"
    while f"${mark}$" in condition + statement:
        mark += "_"
    return (
        text
        if mark == "segue"
        else _GUARDED.replace("$segue$", f"${mark}$").format(condition=condition, statement=statement).strip()
    )


def renamed(columns: Columns | None, name: str | None) -> str | None:
    """Return what a column is called in the new table; None where it is not there any more."""
    return name if columns is None or name is None else columns.get(name, name)


def role(name: str, everyone: bool = False) -> sql.Composable:
    """Return a role as GRANT and policies write it."""
    return verbatim("PUBLIC") if everyone else ident(name)


def has_column(table: Place, column: str) -> str:
    """Return a query that finds a row where a table has a column."""
    return _where(
        "SELECT FROM pg_catalog.pg_attribute WHERE attrelid = {table}::pg_catalog.regclass AND attname = {name} "
        "AND attnum > 0 AND NOT attisdropped",
        table,
        column,
    )


def _where(template: Any, table: Place, name: str) -> str:
    return compose(template, table=literal(str(table)), name=literal(name))


def has_constraint(table: Place, name: str) -> str:
    """Return a query that finds a row where a table has a constraint."""
    return _where(
        "SELECT FROM pg_catalog.pg_constraint WHERE conrelid = {table}::pg_catalog.regclass AND conname = {name}",
        table,
        name,
    )


def has_index(table: Place, name: str) -> str:
    """Return a query that finds a row where a table has an index."""
    return _where(
        "SELECT FROM pg_catalog.pg_index AS i INNER JOIN pg_catalog.pg_class AS c ON i.indexrelid = c.oid "
        "WHERE i.indrelid = {table}::pg_catalog.regclass AND c.relname = {name}",
        table,
        name,
    )


# -- owner and grants -------------------------------------------------------------------------------------------------


def grants(
    kind: str,
    name: sql.Composable,
    owner: str,
    wanted: Sequence[Facts],
    table: Place | None = None,
    columns: Columns | None = None,
) -> Iterator[str]:
    """Give a relation or function exactly these grants; it must belong to `owner` by now.

    A grant by another role than the owner is made as that role where the session may become it, and else by the owner.
    """
    if table is not None:
        yield compose(_REVOKE_DEFAULTS, name=literal(str(table)), kind=verbatim(kind)).strip()
    else:
        yield compose("REVOKE ALL ON {kind} {name} FROM PUBLIC", kind=verbatim(kind), name=name)
    yield compose("REVOKE ALL ON {kind} {name} FROM {owner}", kind=verbatim(kind), name=name, owner=ident(owner))
    for old, each, privileges in _grouped(_in_order(wanted, owner)):
        part = renamed(columns, old)
        if old is not None and part is None:
            continue
        words = listed([verbatim(word) if part is None else _of_column(word, part) for word in privileges])
        statement = compose(
            "GRANT {privileges} ON {kind} {name} TO {grantee}{option}",
            privileges=words,
            kind=verbatim(kind),
            name=name,
            grantee=role(each["grantee"], each["everyone"]),
            option=verbatim(" WITH GRANT OPTION" if each["grantable"] else ""),
        )
        if each["by_owner"] or not each["becomes"]:
            column = table is not None and part is not None
            yield guarded(has_column(table, part), statement) if column else statement  # type: ignore[arg-type]
        else:
            if table is not None:
                yield _let_in(table, each["grantor"])
            yield compose(_AS, role=ident(each["grantor"]), statement=verbatim(statement)).strip()


_AS = """
DO $segue_role$
BEGIN
    SET LOCAL ROLE {role};
    {statement};
    RESET ROLE;
END
$segue_role$
"""


def _let_in(place: Place, role_name: str) -> str:
    """Let a role use a schema, where it may not yet: in the change's own it sees nothing but what it has already."""
    condition = compose(
        "SELECT WHERE NOT pg_catalog.has_schema_privilege({r}, {s}, 'USAGE')",
        r=literal(role_name),
        s=literal(place.schema_name),
    )
    return guarded(
        condition, compose("GRANT USAGE ON SCHEMA {s} TO {r}", s=ident(place.schema_name), r=ident(role_name))
    )


def _of_column(privilege: str, column: str) -> sql.Composable:
    """Return a privilege on one column."""
    return verbatim(compose("{word} ({column})", word=verbatim(privilege), column=ident(column)))


def _in_order(wanted: Sequence[Facts], owner: str) -> list[Facts]:
    """Return grants in an order in which every grantor has what he gives."""
    left = [each for each in wanted if not each["by_owner"]]
    done = [each for each in wanted if each["by_owner"]]
    able = {owner} | {each["grantee"] for each in done}
    while left:
        now = [each for each in left if each["grantor"] in able] or left
        done += now
        able |= {each["grantee"] for each in now}
        left = [each for each in left if each not in now]
    return done


def _grouped(wanted: Iterable[Facts]) -> list[tuple[str | None, Facts, list[str]]]:
    found: dict[tuple[Any, ...], tuple[str | None, Facts, list[str]]] = {}
    for each in wanted:
        key = tuple(each[part] for part in ("part", "everyone", "grantee", "grantor", "grantable"))
        found.setdefault(key, (each["part"], each, []))[2].append(each["privilege"])
    return list(found.values())


def owner(kind: str, place: Place, name: str) -> Iterator[str]:
    """Give a relation to its owner; nothing where it is theirs already."""
    alter = compose("ALTER {kind} {place} OWNER TO {owner}", kind=verbatim(kind), place=place.sql, owner=ident(name))
    theirs = compose(
        "SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = {t}::pg_catalog.regclass "
        "AND pg_catalog.pg_get_userbyid(c.relowner) <> {owner}",
        t=literal(str(place)),
        owner=literal(name),
    )
    yield guarded(theirs, alter)


def let_own(schema: str, name: str) -> str:
    """Let a role have relations in one of the change's own schemas: who is no superuser could give it none else."""
    condition = compose(
        "SELECT WHERE NOT pg_catalog.has_schema_privilege({r}::name, {s}, 'CREATE')", r=literal(name), s=literal(schema)
    )
    return guarded(condition, compose("GRANT CREATE, USAGE ON SCHEMA {s} TO {r}", s=ident(schema), r=ident(name)))


# -- what a table has -------------------------------------------------------------------------------------------------


def policies(facts: Facts, place: Place, names: Mapping[str, str]) -> Iterator[str]:
    """Make the policies, and set whether they hold."""
    for name, policy in facts["policies"].items():
        statement = compose(
            "CREATE POLICY {name} ON {table} AS {permissive} FOR {command} TO {roles}",
            name=ident(name),
            table=place.sql,
            permissive=verbatim("PERMISSIVE" if policy["permissive"] else "RESTRICTIVE"),
            command=verbatim(_COMMANDS[policy["command"]]),
            roles=listed([role(each, not each) for each in policy["roles"]]),
        )
        yield statement + _conditions(policy, names)
        yield from comment("POLICY", policy["comment"], ident(name), place)
    # An ALTER of the change may have set these itself: it only adds.
    if facts["row_security"]:
        yield compose("ALTER TABLE ONLY {table} ENABLE ROW LEVEL SECURITY", table=place.sql)
    if facts["force_row_security"]:
        yield compose("ALTER TABLE ONLY {table} FORCE ROW LEVEL SECURITY", table=place.sql)


def _conditions(policy: Mapping[str, Any], names: Mapping[str, str]) -> str:
    text = ""
    for word, key in (("USING", "condition"), ("WITH CHECK", "check_condition")):
        if policy[key] is not None:
            text += f" {word} ({retarget_expression(policy[key], names)})"
    return text


def alter_policy(policy: Facts) -> str:
    """Return the statement that makes a policy's conditions anew, so that its names are looked up again."""
    return compose(
        "ALTER POLICY {name} ON {table}", name=ident(policy["name"]), table=verbatim(policy["table"])
    ) + _conditions(policy, {})


def cleared(facts: Facts, place: Place) -> Iterator[str]:
    """Take away what may have been made already, so that it can be made again."""
    drop = "DROP {kind} IF EXISTS {name} ON {table}"
    for part, kind in (("policies", "POLICY"), ("triggers", "TRIGGER"), ("rules", "RULE")):
        for name, each in facts[part].items():
            if not each.get("inherited"):
                yield compose(drop, kind=verbatim(kind), name=ident(name), table=place.sql)
    for name in facts["statistics"]:
        yield compose("DROP STATISTICS IF EXISTS {name}", name=ident(place.schema_name, name))


def comment(kind: str, text: str | None, name: sql.Composable, place: Place | None = None) -> Iterator[str]:
    """Comment on something, of a table where `place` is given."""
    if text is None:
        return
    on = verbatim("" if place is None else compose(" ON {place}", place=place.sql))
    yield compose("COMMENT ON {kind} {name}{on} IS {text}", kind=verbatim(kind), name=name, on=on, text=literal(text))


def triggers(facts: Facts, place: Place, names: Mapping[str, str], *, disabled: bool) -> Iterator[str]:
    """Make the triggers; `disabled` at once, so that nothing of ours fires them."""
    for name, trigger in facts["triggers"].items():
        if trigger["inherited"]:
            continue
        yield retarget(trigger["definition"], names)
        if disabled:
            yield trigger_state(place, name, "D")
        elif trigger["enabled"] != "O":
            yield trigger_state(place, name, trigger["enabled"])
        yield from comment("TRIGGER", trigger["comment"], ident(name), place)
        for extension in trigger["extensions"]:
            yield compose(
                "ALTER TRIGGER {name} ON {table} DEPENDS ON EXTENSION {extension}",
                name=ident(name),
                table=place.sql,
                extension=ident(extension),
            )


def trigger_state(place: Place, name: str, state: str, *, only: bool = False) -> str:
    """Return the statement that enables a trigger in one of its ways, or disables it."""
    return compose(
        "ALTER TABLE {only}{table} {state} TRIGGER {name}",
        only=verbatim("ONLY " if only else ""),
        table=place.sql,
        state=verbatim(STATES[state]),
        name=ident(name),
    )


def rule_state(place: Place, name: str, state: str) -> str:
    """Return the statement that enables a rule in one of its ways, or disables it."""
    return compose(
        "ALTER TABLE {table} {state} RULE {name}", table=place.sql, state=verbatim(STATES[state]), name=ident(name)
    )


def rules(facts: Facts, place: Place, names: Mapping[str, str], *, disabled: bool) -> Iterator[str]:
    """Make the rewrite rules; `disabled` at once, so that nothing of ours is rewritten."""
    for name, rule in facts["rules"].items():
        yield retarget(rule["definition"], names).rstrip().removesuffix(";")
        if disabled or rule["enabled"] != "O":
            yield rule_state(place, name, "D" if disabled else rule["enabled"])
        yield from comment("RULE", rule["comment"], ident(name), place)


def identity(facts: Facts, place: Place) -> Iterator[str]:
    """Set the replica identity FULL or NOTHING, where no ALTER of the change has set one; an index has its own mark."""
    kind = facts["replica_identity"]
    unset = compose(
        "SELECT FROM pg_catalog.pg_class WHERE oid = {table}::pg_catalog.regclass AND relreplident = 'd'",
        table=literal(str(place)),
    )
    if kind in ("f", "n"):
        word = verbatim("FULL" if kind == "f" else "NOTHING")
        yield guarded(unset, compose("ALTER TABLE ONLY {t} REPLICA IDENTITY {word}", t=place.sql, word=word))


def index_facts(facts: Facts, place: Place) -> Iterator[str]:
    """Give the indexes their comments, and what drops them with an extension; those that there are."""
    for name, index in facts["indexes"].items():
        here = Place(schema_name=place.schema_name, name=name)
        there = has_index(place, name)
        for statement in comment("INDEX", index["comment"], here.sql):
            yield guarded(there, statement)
        for extension in index["extensions"]:
            yield guarded(
                there,
                compose("ALTER INDEX {name} DEPENDS ON EXTENSION {e}", name=here.sql, e=ident(extension)),
            )


def statistics(facts: Facts, place: Place, names: Mapping[str, str]) -> Iterator[str]:
    """Make the extended statistics in the table's schema, under the names that they have."""
    for name, each in facts["statistics"].items():
        here = Place(schema_name=place.schema_name, name=name)
        kinds = listed([verbatim(_KINDS[kind]) for kind in each["kinds"] if kind in _KINDS])
        some = any(kind in _KINDS for kind in each["kinds"])
        yield compose(
            "CREATE STATISTICS {name}{kinds} ON {columns} FROM {table}",
            name=here.sql,
            kinds=verbatim(compose(" ({kinds})", kinds=kinds) if some else ""),
            columns=verbatim(retarget_list(each["columns"], names)),
            table=place.sql,
        )
        if each["target"] >= 0:
            yield compose("ALTER STATISTICS {name} SET STATISTICS {t}", name=here.sql, t=literal(each["target"]))
        yield from comment("STATISTICS", each["comment"], here.sql)


def retarget_list(text: str, names: Mapping[str, str]) -> str:
    """Return a list of expressions with other relations in the place of some."""
    head = "SELECT "
    return retarget(head + text, names)[len(head) :]


def comments(facts: Facts, place: Place, kind: str = "TABLE", columns: Columns | None = None) -> Iterator[str]:
    """Comment on a relation, its columns, its row type and its constraints; those that there are."""
    yield from comment(kind, facts["comment"], place.sql)
    yield from comment("TYPE", facts["type_comment"], place.sql)
    for old, column in facts["columns"].items():
        name = renamed(columns, old)
        if name is not None:
            for statement in comment("COLUMN", column["comment"], ident(place.schema_name, place.name, name)):
                yield guarded(has_column(place, name), statement)
    for name, constraint in facts["constraints"].items():
        if constraint["kind"] != "f":
            for statement in comment("CONSTRAINT", constraint["comment"], ident(name), place):
                yield guarded(has_constraint(place, name), statement)


def labels(facts: Facts, place: Place, kind: str = "TABLE", columns: Columns | None = None) -> Iterator[str]:
    """Set the security labels."""
    for label in facts["labels"]:
        column = renamed(columns, label["column"])
        if column is None and label["column"] is not None:
            continue
        on = place.sql if column is None else ident(place.schema_name, place.name, column)
        yield compose(
            "SECURITY LABEL FOR {provider} ON {kind} {name} IS {label}",
            provider=ident(label["provider"]),
            kind=verbatim(kind if column is None else "COLUMN"),
            name=on,
            label=literal(label["label"]),
        )


def options(wanted: Sequence[str], prefix: str = "") -> sql.Composable:
    """Return storage parameters as they are set, from `name=value`."""
    parts = []
    for each in wanted:
        name, _, value = each.partition("=")
        key = verbatim(prefix + compose("{n}", n=ident(name)))
        parts.append(verbatim(compose("{name}={value}", name=key, value=literal(value))))
    return listed(parts)


def sequences(facts: Facts, place: Place) -> Iterator[str]:
    """Give identity sequences of the same name the comments and grants that they have."""
    for sequence in facts["sequences"]:
        if sequence["identity"]:
            here = Place(schema_name=place.schema_name, name=sequence["name"])
            condition = compose("SELECT WHERE pg_catalog.to_regclass({name}) IS NOT NULL", name=literal(str(here)))
            for statement in comment("SEQUENCE", sequence["comment"], here.sql):
                yield guarded(condition, statement)


def word(kind: str) -> str:
    """Return what ALTER and COMMENT call a relation of a kind."""
    return _WORDS.get(kind, "TABLE")


def sequence_grants(place: Place, owner: str, wanted: Sequence[Facts]) -> Iterator[str]:
    """Give a sequence its grants; one that is not there is left out, and parity says so."""
    yield from grants("SEQUENCE", place.sql, owner, wanted, place)
