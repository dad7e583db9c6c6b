"""What a statement does to the application that runs beside it, kind by kind, as its form was measured (`forms`).

Judged from the text alone: what depends on the catalogue (which tables refer to one, what type a column has) is said
in a note, and where nothing can be told the strongest lock is assumed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.databases.postgresql import forms
from segue.databases.postgresql.alter_table import alter_table, foreign_key
from segue.databases.postgresql.effects import Effects, Names
from segue.databases.postgresql.relations import (
    descendants,
    mentioned,
    object_name,
    qualified,
    strings,
    table_name,
    unwrapped,
)
from segue.errors import InvalidInput
from segue.model.impact import Duration, IndexBuild, Lock

if TYPE_CHECKING:
    from collections.abc import Callable

    Judge = Callable[[Any, Effects], None]

AEL = Lock.ACCESS_EXCLUSIVE

_UNNAMED_DEPENDANTS = "CASCADE drops what depends on it too, and locks it; the text does not name it"


def judge(node: Any, names: Names) -> Effects:
    """Return what one statement of a parse tree does; `names` is what the same text created before it."""
    kind = node.WhichOneof("node")
    effects = Effects(names, verb=_words(kind))
    found = _JUDGES.get(kind)
    if found is not None:
        found(getattr(node, kind), effects)
    elif kind not in _LOCKLESS:
        effects.unknown("whatever it touches", "this kind of statement is not known: the strongest lock is assumed")
        effects.lasts(Duration.REWRITE)
    return effects


def _words(kind: str) -> str:
    words = kind.removesuffix("_stmt").replace("_", " ").upper()
    return _VERBS.get(kind, words)


_VERBS = {
    "create_plang_stmt": "CREATE LANGUAGE",
    "create_table_space_stmt": "CREATE TABLESPACE",
    "drop_table_space_stmt": "DROP TABLESPACE",
    "createdb_stmt": "CREATE DATABASE",
    "dropdb_stmt": "DROP DATABASE",
    "create_enum_stmt": "CREATE TYPE",
    "create_range_stmt": "CREATE TYPE",
    "composite_type_stmt": "CREATE TYPE",
    "create_am_stmt": "CREATE ACCESS METHOD",
    "create_fdw_stmt": "CREATE FOREIGN DATA WRAPPER",
    "create_foreign_server_stmt": "CREATE SERVER",
    "alter_foreign_server_stmt": "ALTER SERVER",
    "create_op_class_stmt": "CREATE OPERATOR CLASS",
    "create_op_family_stmt": "CREATE OPERATOR FAMILY",
    "create_event_trig_stmt": "CREATE EVENT TRIGGER",
    "alter_event_trig_stmt": "ALTER EVENT TRIGGER",
    "check_point_stmt": "CHECKPOINT",
    "alter_role_set_stmt": "ALTER ROLE",
    "alter_database_set_stmt": "ALTER DATABASE",
    "grant_role_stmt": "GRANT",
    "variable_show_stmt": "SHOW",
    "sec_label_stmt": "SECURITY LABEL",
    "import_foreign_schema_stmt": "IMPORT FOREIGN SCHEMA",
}

#: Kinds that lock no table of the application and take a moment.
_LOCKLESS = frozenset(
    f"{name}_stmt"
    for name in (
        "create_enum create_range composite_type define create_domain create_cast create_conversion create_am "
        "create_transform create_op_class create_op_family alter_op_family alter_operator alter_collation alter_type "
        "create_fdw alter_fdw create_foreign_server alter_foreign_server create_user_mapping alter_user_mapping "
        "drop_user_mapping create_event_trig alter_event_trig create_plang create_role alter_role alter_role_set "
        "drop_role grant_role alter_default_privileges alter_tsdictionary alter_tsconfiguration "
        "alter_database_set alter_database_refresh_coll alter_function alter_extension_contents variable_show notify "
        "check_point constraints_set alter_table_space_options alter_object_depends"
    ).split()
)

# -- data ------------------------------------------------------------------------------------------------------------


def _query(statement: Any, effects: Effects) -> None:
    tables = mentioned(statement)
    effects.take_all(tables)
    writes = any(lock is Lock.ROW_EXCLUSIVE for lock in tables.values())
    effects.lasts(Duration.DATA if writes else Duration.SCAN if tables else Duration.INSTANT)
    if isinstance_name(statement, "DeleteStmt") or any(descendants(statement, "DeleteStmt")):
        effects.destroys = True
    if isinstance_name(statement, "SelectStmt"):
        if statement.HasField("into_clause"):
            effects.names.tables.add(table_name(statement.into_clause.rel))
            effects.as_measured("select-into")
        called = sorted(
            {qualified(strings(call.funcname)) for call in descendants(statement, "FuncCall")} - _HARMLESS_CALLS
        )
        if called:
            effects.note(f"calls {called[0]}(): what a function locks cannot be told from the text")


def _write(statement: Any, effects: Effects) -> None:
    _query(statement, effects)
    kind = type(statement).__name__
    if kind in ("UpdateStmt", "DeleteStmt") and not statement.HasField("where_clause"):
        effects.note("touches every row in one transaction; a backfill does it in small batches")
    if kind == "InsertStmt":
        source = unwrapped(statement.select_stmt)
        if not isinstance_name(source, "SelectStmt") or source.values_lists:
            effects.duration = Duration.INSTANT


_HARMLESS_CALLS = frozenset(
    "count sum min max avg now lower upper coalesce length array_agg string_agg jsonb_agg exists bool_and bool_or "
    "date_trunc generate_series to_char round abs pg_catalog.date_part pg_catalog.extract md5 row_number".split()
)


def isinstance_name(message: Any, kind: str) -> bool:
    """Return whether a message is of this type; the generated classes are not imported at start-up."""
    return type(message).__name__ == kind


def _copy(statement: Any, effects: Effects) -> None:
    effects.verb = "COPY"
    effects.lasts(Duration.DATA)
    if statement.HasField("relation"):
        effects.take(
            table_name(statement.relation), effects.as_measured("copy-from" if statement.is_from else "copy-to")
        )
    effects.take_all(mentioned(statement.query))


def _truncate(statement: Any, effects: Effects) -> None:
    from postgast import pg_query_pb2 as pb

    effects.destroys = False
    for item in statement.relations:
        if effects.take(table_name(item.range_var), effects.as_measured("truncate")):
            effects.destroys = True
    if statement.behavior == pb.DROP_CASCADE:
        effects.destroys = True
        effects.note("CASCADE empties every table that refers to it, and locks it; the text does not name them")


def _lock_table(statement: Any, effects: Effects) -> None:
    effects.verb = "LOCK TABLE"
    lock = list(Lock)[statement.mode] if 0 < statement.mode < len(Lock) else AEL
    for item in statement.relations:
        effects.take(table_name(item.range_var), lock)
    effects.note("the lock lasts until its transaction ends")


# -- tables ----------------------------------------------------------------------------------------------------------


def _create_table(statement: Any, effects: Effects) -> None:
    effects.verb = "CREATE TABLE"
    table = table_name(statement.relation)
    if statement.if_not_exists:
        effects.note("if the table exists already, nothing happens, and its shape is not looked at")
    for element in statement.table_elts:
        kind = element.WhichOneof("node")
        if kind == "column_def":
            for item in element.column_def.constraints:
                _inline_reference(item.constraint, effects, table)
        elif kind == "constraint":
            _inline_reference(element.constraint, effects, table)
        elif kind == "table_like_clause":
            like = effects.as_measured("create-table-like")
            effects.take(table_name(element.table_like_clause.relation), like, parent=True)
    for parent in statement.inh_relations:
        if statement.HasField("partbound"):
            effects.take(table_name(parent.range_var), forms.newest("create-partition").lock(), parent=True)
            effects.note(
                "CREATE TABLE … PARTITION OF locks the parent (and a default partition, which it scans) against "
                "everything; creating the table by itself and ATTACH PARTITION does not lock the parent so"
            )
        else:
            lock = forms.newest("create-table-inherits").lock("inherited")
            effects.take(table_name(parent.range_var), lock, parent=True)
    if not statement.if_not_exists:
        effects.names.tables.add(table)


def _inline_reference(constraint: Any, effects: Effects, table: str) -> None:
    if constraint.HasField("pktable") and table_name(constraint.pktable) != table:
        foreign_key(constraint, effects, validated=False)


def _create_foreign_table(statement: Any, effects: Effects) -> None:
    _create_table(statement.base_stmt, effects)
    effects.verb = "CREATE FOREIGN TABLE"


def _create_table_as(statement: Any, effects: Effects) -> None:
    from postgast import pg_query_pb2 as pb

    view = statement.objtype == pb.OBJECT_MATVIEW
    effects.verb = "CREATE MATERIALIZED VIEW" if view else "CREATE TABLE AS"
    effects.take_all(mentioned(statement.query))
    effects.lasts(Duration.INSTANT if statement.into.skip_data else Duration.DATA)
    if not statement.if_not_exists:
        effects.names.tables.add(table_name(statement.into.rel))


def _view(statement: Any, effects: Effects) -> None:
    effects.verb = "CREATE VIEW"
    view = table_name(statement.view)
    effects.take_all(mentioned(statement.query))
    if statement.replace:
        effects.verb = "CREATE OR REPLACE VIEW"
        effects.take(view, forms.newest("replace-view").lock("view"))
    else:
        effects.names.tables.add(view)


def _refresh(statement: Any, effects: Effects) -> None:
    effects.verb = "REFRESH MATERIALIZED VIEW" + (" CONCURRENTLY" if statement.concurrent else "")
    way = "-concurrently" if statement.concurrent else "-with-no-data" if statement.skip_data else ""
    facts = forms.newest(f"refresh-materialized-view{way}")
    effects.take(table_name(statement.relation), facts.lock("materialized view"))
    effects.lasts(facts.duration)
    effects.note("reads the tables of the view's query (ACCESS SHARE); the text does not name them")


def _drop(statement: Any, effects: Effects) -> None:
    from postgast import pg_query_pb2 as pb

    what = pb.ObjectType.Name(statement.remove_type).removeprefix("OBJECT_")
    effects.verb = "DROP " + {"MATVIEW": "MATERIALIZED VIEW"}.get(what, what.replace("_", " "))
    for item in statement.objects:
        _drop_one(what, object_name(item), statement, effects)
    if statement.behavior == pb.DROP_CASCADE:
        effects.destroys = True
        effects.note(_UNNAMED_DEPENDANTS)
    if what not in _RELATIONS and (what in ("SCHEMA", "EXTENSION") or statement.behavior == pb.DROP_CASCADE):
        names = ", ".join(qualified(object_name(item)) for item in statement.objects)
        effects.take(f"whatever belongs to {what.replace('_', ' ').lower()} {names}", AEL, known=False)


#: What is dropped and has a form of its own, and the role of what is not a table in those forms.
_DROPPED = {
    "TABLE": "drop-table",
    "FOREIGN_TABLE": "drop-table",
    "VIEW": "drop-view",
    "MATVIEW": "drop-materialized-view",
    "SEQUENCE": "drop-sequence",
}
_ROLES = {"VIEW": "view", "MATVIEW": "materialized view", "SEQUENCE": "sequence", "INDEX": "index"}


def _drop_one(what: str, parts: list[str], statement: Any, effects: Effects) -> None:
    name = qualified(parts)
    if what in ("TABLE", "FOREIGN_TABLE", "MATVIEW", "VIEW", "SEQUENCE"):
        if effects.take(name, forms.newest(_DROPPED[what]).lock(_ROLES.get(what, forms.TABLE))):
            effects.destroys = effects.destroys or what in ("TABLE", "MATVIEW", "SEQUENCE")
            if what == "TABLE":
                effects.note(
                    "every table that it refers to by a foreign key is locked too (ACCESS EXCLUSIVE); "
                    "the text does not name them"
                )
        effects.names.tables.discard(name)
    elif what == "INDEX":
        _drop_index(name, statement, effects)
    elif what in ("TRIGGER", "POLICY", "RULE"):
        effects.take(qualified(parts[:-1]), effects.as_measured(f"drop-{what.lower()}"))
    elif what == "STATISTIC_EXT":
        effects.verb = "DROP STATISTICS"
        effects.take(f"table of statistics {name}", effects.as_measured("drop-statistics"), known=False)
    elif what in ("SCHEMA", "TYPE", "DOMAIN", "EXTENSION"):
        effects.destroys = True


def _drop_index(name: str, statement: Any, effects: Effects) -> None:
    table = effects.names.table_of(name)
    effects.index = IndexBuild(name, table, "drop")
    if statement.concurrent:
        effects.verb = "DROP INDEX CONCURRENTLY"
        effects.transactional = False
    lock = effects.as_measured("drop-index-concurrently" if statement.concurrent else "drop-index")
    if table is None:
        effects.take(f"table of index {name}", lock, known=False)
    else:
        effects.take(table, lock)


# -- indexes ---------------------------------------------------------------------------------------------------------


def _index(statement: Any, effects: Effects) -> None:
    table = table_name(statement.relation)
    name = qualified((statement.relation.schemaname, statement.idxname)) if statement.idxname else ""
    effects.verb = "CREATE INDEX" + (" CONCURRENTLY" if statement.concurrent else "")
    if statement.unique:
        effects.verb = effects.verb.replace("CREATE", "CREATE UNIQUE")
    if statement.concurrent and not name:
        raise InvalidInput(
            f'CREATE INDEX CONCURRENTLY on "{table}" gives the index no name',
            hint="name it: without a name an index left invalid by a crash could not be found again",
        )
    if statement.concurrent and statement.if_not_exists:
        effects.note("IF NOT EXISTS keeps an INVALID index as it is; Segue looks for one and rebuilds it")
    if statement.concurrent:
        effects.transactional = False
        effects.note("waits for every transaction that is older than itself")
    if name:
        effects.index = IndexBuild(name, table, "create")
        effects.names.indexes[name] = table
    facts = forms.newest("create-index-concurrently" if statement.concurrent else "create-index")
    if effects.take(table, facts.lock()):
        effects.lasts(facts.duration)


def _reindex(statement: Any, effects: Effects) -> None:
    from postgast import pg_query_pb2 as pb

    what = pb.ReindexObjectType.Name(statement.kind).removeprefix("REINDEX_OBJECT_")
    concurrent = any(item.def_elem.defname == "concurrently" and not _false(item.def_elem) for item in statement.params)
    effects.verb = f"REINDEX {what}" + (" CONCURRENTLY" if concurrent else "")
    facts = forms.newest(f"reindex-{'index' if what == 'INDEX' else 'table'}{'-concurrently' if concurrent else ''}")
    effects.lasts(facts.duration)
    effects.transactional = not concurrent
    if concurrent:
        effects.note("waits for every transaction that is older than itself")
    if what == "INDEX":
        name = table_name(statement.relation)
        effects.index = IndexBuild(name, effects.names.table_of(name), "reindex")
        effects.take(f"table of index {name}", facts.lock(), known=False)
        effects.take(name, facts.lock("index"))
        if not concurrent:
            effects.note("queries of the table wait too: a plan reads every index of its table")
    elif what == "TABLE":
        effects.take(table_name(statement.relation), facts.lock())
        if not concurrent:
            effects.note(
                "each index is locked against everything while it is rebuilt, so queries of the table wait too"
            )
    else:
        effects.transactional = False
        effects.take(f"every table of the {what.lower()}", facts.lock(), known=False)


def _false(element: Any) -> bool:
    value = unwrapped(element.arg)
    name = type(value).__name__
    if name == "Boolean":
        return not value.boolval
    if name == "String":
        return value.sval.lower() in ("false", "off", "0", "no")
    return name == "Integer" and value.ival == 0


def _cluster(statement: Any, effects: Effects) -> None:
    lock = effects.as_measured("cluster")
    effects.note("rewrites the table under the lock")
    if statement.HasField("relation"):
        effects.take(table_name(statement.relation), lock)
    else:
        effects.transactional = False
        effects.take("every clustered table", lock, known=False)


def _vacuum(statement: Any, effects: Effects) -> None:
    options = {item.def_elem.defname for item in statement.options if not _given_false(item.def_elem)}
    full = statement.is_vacuumcmd and "full" in options
    effects.verb = ("VACUUM FULL" if full else "VACUUM") if statement.is_vacuumcmd else "ANALYZE"
    effects.transactional = not statement.is_vacuumcmd
    lock = effects.as_measured("vacuum-full" if full else "vacuum" if statement.is_vacuumcmd else "analyze")
    for item in statement.rels:
        effects.take(table_name(item.vacuum_relation.relation), lock)
    if not statement.rels:
        effects.take("every table of the database", lock, known=False)


def _given_false(element: Any) -> bool:
    return element.HasField("arg") and _false(element)


# -- names, owners, rights -------------------------------------------------------------------------------------------

_RELATIONS = frozenset("TABLE VIEW MATVIEW INDEX SEQUENCE FOREIGN_TABLE".split())


#: What is renamed and locks what it is or belongs to, and its form.
_RENAMED = {
    "TABLE": "rename-table",
    "FOREIGN_TABLE": "rename-table",
    "VIEW": "rename-view",
    "MATVIEW": "rename-materialized-view",
    "INDEX": "rename-index",
    "SEQUENCE": "rename-sequence",
    "COLUMN": "rename-column",
    "TABCONSTRAINT": "rename-constraint",
    "TRIGGER": "rename-trigger",
    "POLICY": "rename-policy",
    "RULE": "rename-rule",
}


def _rename(statement: Any, effects: Effects) -> None:
    from postgast import pg_query_pb2 as pb

    what = pb.ObjectType.Name(statement.rename_type).removeprefix("OBJECT_")
    of = pb.ObjectType.Name(statement.relation_type).removeprefix("OBJECT_") if what == "COLUMN" else what
    of = {"TABCONSTRAINT": "TABLE", "ATTRIBUTE": "TYPE", "DOMCONSTRAINT": "DOMAIN"}.get(of, of)
    effects.verb = "ALTER " + {"MATVIEW": "MATERIALIZED VIEW"}.get(of, of.replace("_", " ")) + " RENAME"
    if what == "ATTRIBUTE":
        effects.take(f"tables of type {table_name(statement.relation)}", AEL, known=False)
        return
    if what not in _RENAMED:
        return
    table = table_name(statement.relation)
    existed = effects.take(table, forms.newest(_RENAMED[what]).lock(_ROLES.get(what, forms.TABLE)))
    if what in ("TABLE", "VIEW", "MATVIEW") and not existed:
        effects.names.tables.add(qualified((statement.relation.schemaname, statement.newname)))
    if what in ("TABLE", "VIEW", "COLUMN", "MATVIEW") and existed:
        effects.note("code that still uses the old name fails from this moment")


def _owner(statement: Any, effects: Effects) -> None:
    from postgast import pg_query_pb2 as pb

    what = pb.ObjectType.Name(statement.object_type).removeprefix("OBJECT_")
    effects.verb = f"ALTER {what.replace('_', ' ')} OWNER"
    if statement.HasField("relation") and statement.relation.relname:
        effects.take(table_name(statement.relation), effects.as_measured("change-table-owner"))


def _schema_of(statement: Any, effects: Effects) -> None:
    from postgast import pg_query_pb2 as pb

    what = pb.ObjectType.Name(statement.object_type).removeprefix("OBJECT_")
    effects.verb = f"ALTER {what.replace('_', ' ')} SET SCHEMA"
    if statement.HasField("relation") and statement.relation.relname:
        table = table_name(statement.relation)
        if effects.take(table, effects.as_measured("set-table-schema")):
            effects.note("code that still uses the old name fails from this moment")
            effects.note("its indexes, constraints and owned sequences move along")


def _comment(statement: Any, effects: Effects) -> None:
    from postgast import pg_query_pb2 as pb

    what = pb.ObjectType.Name(statement.objtype).removeprefix("OBJECT_")
    parts = object_name(statement.object)
    if what in ("TABLE", "VIEW", "MATVIEW", "FOREIGN_TABLE", "INDEX", "SEQUENCE"):
        effects.take(qualified(parts), effects.as_measured("comment-on-table"))
    elif what == "COLUMN":
        effects.take(qualified(parts[:-1]), effects.as_measured("comment-on-column"))
    elif what in ("TRIGGER", "POLICY", "RULE", "TABCONSTRAINT"):
        effects.take(qualified(parts[:-1]), effects.as_measured("comment-on-constraint"))


def _grant(statement: Any, effects: Effects) -> None:
    from postgast import pg_query_pb2 as pb

    effects.verb = "GRANT" if statement.is_grant else "REVOKE"
    if statement.targtype == pb.ACL_TARGET_OBJECT and statement.objtype in (pb.OBJECT_TABLE, pb.OBJECT_SEQUENCE):
        for item in statement.objects:
            if item.WhichOneof("node") == "range_var":
                effects.take(table_name(item.range_var), effects.as_measured("grant"))


# -- triggers, policies, rules, publications, statistics -------------------------------------------------------------


def _trigger(statement: Any, effects: Effects) -> None:
    effects.verb = "CREATE OR REPLACE TRIGGER" if statement.replace else "CREATE TRIGGER"
    if statement.HasField("constrrel"):
        lock = forms.newest("create-constraint-trigger").lock("parent")
        effects.take(table_name(statement.constrrel), lock, parent=True)
    effects.take(table_name(statement.relation), effects.as_measured("create-trigger"))


def _policy(statement: Any, effects: Effects) -> None:
    effects.take_all(mentioned(statement.qual))
    effects.take_all(mentioned(statement.with_check))
    effects.take(table_name(statement.table), effects.as_measured("create-policy"))


def _rule(statement: Any, effects: Effects) -> None:
    effects.verb = "CREATE RULE"
    for action in statement.actions:
        effects.take_all({table: lock for table, lock in mentioned(action).items() if table not in ("new", "old")})
    effects.take(table_name(statement.relation), effects.as_measured("create-rule"))


def _publication(statement: Any, effects: Effects) -> None:
    for item in statement.pubobjects:
        spec = item.publication_obj_spec
        if spec.HasField("pubtable"):
            effects.take(table_name(spec.pubtable.relation), effects.as_measured("publication-add-table"))


def _statistics(statement: Any, effects: Effects) -> None:
    effects.verb = "CREATE STATISTICS"
    for item in statement.relations:
        effects.take(table_name(item.range_var), effects.as_measured("create-statistics"))


def _alter_statistics(statement: Any, effects: Effects) -> None:
    effects.verb = "ALTER STATISTICS"


# -- sequences, types, domains, functions ----------------------------------------------------------------------------


def _create_sequence(statement: Any, effects: Effects) -> None:
    effects.verb = "CREATE SEQUENCE"
    _owned_by(statement, effects)
    if not statement.if_not_exists:
        effects.names.tables.add(table_name(statement.sequence))


def _alter_sequence(statement: Any, effects: Effects) -> None:
    effects.verb = "ALTER SEQUENCE"
    _owned_by(statement, effects)
    effects.take(table_name(statement.sequence), forms.newest("alter-sequence").lock("sequence"))


def _owned_by(statement: Any, effects: Effects) -> None:
    for item in statement.options:
        if item.def_elem.defname == "owned_by":
            parts = object_name(item.def_elem.arg)
            if len(parts) > 1:
                effects.take(qualified(parts[:-1]), effects.as_measured("create-sequence-owned"))


def _alter_domain(statement: Any, effects: Effects) -> None:
    effects.verb = "ALTER DOMAIN"
    name = qualified(strings(statement.type_name))
    adds = statement.subtype in ("C", "O", "V", 3, 5, 7)
    definition = getattr(statement, "def")
    checked = adds and not (definition.WhichOneof("node") == "constraint" and definition.constraint.skip_validation)
    if checked:
        facts = forms.newest("domain-add-check")
        effects.take(f"tables with a column of domain {name}", facts.lock("domain user"), known=False)
        effects.lasts(facts.duration)
        effects.note("scans every table that uses the domain while writes to it wait; the text does not name them")


def _alter_enum(statement: Any, effects: Effects) -> None:
    effects.verb = "ALTER TYPE"
    if not statement.old_val:
        effects.note("the new value cannot be used in the transaction that adds it")
    else:
        effects.note("code that still uses the old value fails from this moment")


def _function(statement: Any, effects: Effects) -> None:
    effects.verb = "CREATE PROCEDURE" if statement.is_procedure else "CREATE FUNCTION"
    if statement.HasField("sql_body"):
        effects.take_all(mentioned(statement.sql_body))
        return
    options = {item.def_elem.defname: item.def_elem.arg for item in statement.options}
    language = unwrapped(options["language"]).sval.lower() if "language" in options else ""
    if language == "sql" and "as" in options:
        _sql_body(strings(options["as"].list.items), effects)


def _sql_body(texts: list[str], effects: Effects) -> None:
    from postgast import PgQueryError, parse

    # The server parses and analyses such a body when the function is created, which locks what it names.
    for text in texts[:1]:
        try:
            tree = parse(text)
        except PgQueryError:
            effects.note("the function's body could not be read")
            return
        for raw in tree.stmts:
            effects.take_all(mentioned(raw.stmt))


def _do(statement: Any, effects: Effects) -> None:
    effects.verb = "DO"
    effects.lasts(Duration.DATA)
    effects.unknown("whatever the block touches", "a DO block cannot be analysed: the strongest lock is assumed")


def _call(statement: Any, effects: Effects) -> None:
    effects.verb = "CALL"
    effects.lasts(Duration.DATA)
    effects.transactional = False
    effects.unknown(
        "whatever the procedure touches",
        "a procedure cannot be analysed, and may commit: the strongest lock is assumed, and it runs by itself",
    )


def _explain(statement: Any, effects: Effects) -> None:
    _query(unwrapped(statement.query), effects)
    effects.verb = "EXPLAIN"
    if not any(item.def_elem.defname == "analyze" and not _given_false(item.def_elem) for item in statement.options):
        effects.duration = Duration.INSTANT
        effects.destroys = False


# -- schemas, extensions, roles, whole databases ---------------------------------------------------------------------


def _create_schema(statement: Any, effects: Effects) -> None:
    effects.verb = "CREATE SCHEMA"
    for item in statement.schema_elts:
        inner = judge(item, effects.names)
        for held in inner.locks():
            effects.take(held.table, held.lock, known=held.known)
        effects.lasts(inner.duration)


def _extension(statement: Any, effects: Effects) -> None:
    effects.note("runs the extension's own script, often as a superuser: what it locks cannot be told from the text")


def _owned(statement: Any, effects: Effects) -> None:
    drops = isinstance_name(statement, "DropOwnedStmt")
    effects.verb = "DROP OWNED" if drops else "REASSIGN OWNED"
    effects.destroys = drops
    effects.unknown("everything that the roles own", "locks every object of the roles; the text does not name them")


def _move_all(statement: Any, effects: Effects) -> None:
    effects.verb = "ALTER TABLE ALL IN TABLESPACE"
    effects.lasts(Duration.REWRITE)
    effects.unknown("every table of the tablespace", "copies every table of the tablespace under the lock")


def _alone(statement: Any, effects: Effects) -> None:
    effects.transactional = False
    if isinstance_name(statement, "DropdbStmt"):
        effects.destroys = True


def _alter_database(statement: Any, effects: Effects) -> None:
    effects.transactional = all(item.def_elem.defname != "tablespace" for item in statement.options)


def _subscription(statement: Any, effects: Effects) -> None:
    # Creating and dropping a slot on the other server, and refreshing, cannot be undone with the transaction.
    effects.transactional = False
    effects.note("talks to the other server; what it does there is not undone with a transaction")


def _alter_subscription(statement: Any, effects: Effects) -> None:
    from postgast import pg_query_pb2 as pb

    kind = pb.AlterSubscriptionType.Name(statement.kind)
    alone = ("REFRESH", "SET_PUBLICATION", "ADD_PUBLICATION", "DROP_PUBLICATION", "OPTIONS")
    effects.transactional = not any(word in kind for word in alone)


def _import(statement: Any, effects: Effects) -> None:
    effects.lasts(Duration.DATA)
    effects.note("talks to the other server")


def _security_label(statement: Any, effects: Effects) -> None:
    _comment(statement, effects)


_JUDGES: dict[str, Judge] = {
    "select_stmt": _query,
    "insert_stmt": _write,
    "update_stmt": _write,
    "delete_stmt": _write,
    "merge_stmt": _write,
    "copy_stmt": _copy,
    "truncate_stmt": _truncate,
    "lock_stmt": _lock_table,
    "create_stmt": _create_table,
    "create_foreign_table_stmt": _create_foreign_table,
    "create_table_as_stmt": _create_table_as,
    "view_stmt": _view,
    "refresh_mat_view_stmt": _refresh,
    "drop_stmt": _drop,
    "index_stmt": _index,
    "reindex_stmt": _reindex,
    "cluster_stmt": _cluster,
    "vacuum_stmt": _vacuum,
    "alter_table_stmt": alter_table,
    "rename_stmt": _rename,
    "alter_owner_stmt": _owner,
    "alter_object_schema_stmt": _schema_of,
    "comment_stmt": _comment,
    "sec_label_stmt": _security_label,
    "grant_stmt": _grant,
    "create_trig_stmt": _trigger,
    "create_policy_stmt": _policy,
    "alter_policy_stmt": _policy,
    "rule_stmt": _rule,
    "create_publication_stmt": _publication,
    "alter_publication_stmt": _publication,
    "create_stats_stmt": _statistics,
    "alter_stats_stmt": _alter_statistics,
    "create_seq_stmt": _create_sequence,
    "alter_seq_stmt": _alter_sequence,
    "alter_domain_stmt": _alter_domain,
    "alter_enum_stmt": _alter_enum,
    "create_function_stmt": _function,
    "do_stmt": _do,
    "call_stmt": _call,
    "explain_stmt": _explain,
    "create_schema_stmt": _create_schema,
    "create_extension_stmt": _extension,
    "alter_extension_stmt": _extension,
    "drop_owned_stmt": _owned,
    "reassign_owned_stmt": _owned,
    "alter_table_move_all_stmt": _move_all,
    "createdb_stmt": _alone,
    "dropdb_stmt": _alone,
    "alter_database_stmt": _alter_database,
    "alter_system_stmt": _alone,
    "create_table_space_stmt": _alone,
    "drop_table_space_stmt": _alone,
    "create_subscription_stmt": _subscription,
    "drop_subscription_stmt": _subscription,
    "alter_subscription_stmt": _alter_subscription,
    "import_foreign_schema_stmt": _import,
}
