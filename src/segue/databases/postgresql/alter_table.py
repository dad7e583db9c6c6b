"""What each part of ALTER TABLE does: its lock, whether it scans or rewrites, which other tables it takes along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.databases.postgresql import forms, grammar
from segue.databases.postgresql.relations import mentioned, qualified, strings, table_name, volatile_calls
from segue.model.impact import Duration, Lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.databases.postgresql.effects import Effects

#: The measured form of each part. Others, known or not, take ACCESS EXCLUSIVE.
_FORMS = {
    "AT_AddColumn": "add-column",
    "AT_DropColumn": "drop-column",
    "AT_AlterColumnType": "alter-type",
    "AT_ColumnDefault": "set-default",
    "AT_SetNotNull": "set-not-null",
    "AT_DropNotNull": "drop-not-null",
    "AT_SetExpression": "set-expression",
    "AT_DropExpression": "drop-expression",
    "AT_AddIdentity": "add-identity",
    "AT_SetIdentity": "set-identity",
    "AT_DropIdentity": "drop-identity",
    "AT_SetStorage": "set-storage",
    "AT_SetCompression": "set-compression",
    "AT_SetStatistics": "set-statistics",
    "AT_SetOptions": "set-column-options",
    "AT_ResetOptions": "reset-column-options",
    "AT_DropConstraint": "drop-check",
    "AT_AlterConstraint": "alter-constraint-deferrable",
    "AT_ValidateConstraint": "validate-check",
    "AT_EnableTrig": "enable-trigger",
    "AT_EnableAlwaysTrig": "enable-always-trigger",
    "AT_EnableReplicaTrig": "enable-replica-trigger",
    "AT_DisableTrig": "disable-trigger",
    "AT_EnableTrigAll": "enable-trigger-all",
    "AT_DisableTrigAll": "disable-trigger-all",
    "AT_EnableTrigUser": "enable-trigger-user",
    "AT_DisableTrigUser": "disable-trigger-user",
    "AT_EnableRule": "enable-rule",
    "AT_EnableAlwaysRule": "enable-always-rule",
    "AT_EnableReplicaRule": "enable-replica-rule",
    "AT_DisableRule": "disable-rule",
    "AT_EnableRowSecurity": "enable-row-security",
    "AT_DisableRowSecurity": "disable-row-security",
    "AT_ForceRowSecurity": "force-row-security",
    "AT_NoForceRowSecurity": "no-force-row-security",
    "AT_ReplicaIdentity": "replica-identity",
    "AT_ChangeOwner": "change-table-owner",
    "AT_ClusterOn": "cluster-on",
    "AT_DropCluster": "set-without-cluster",
    "AT_DropOids": "set-without-oids",
    "AT_AddOf": "of-type",
    "AT_DropOf": "not-of-type",
    "AT_AddInherit": "inherit",
    "AT_DropInherit": "no-inherit",
    "AT_SetLogged": "set-logged",
    "AT_SetUnLogged": "set-unlogged",
    "AT_SetAccessMethod": "set-access-method",
    "AT_SetTableSpace": "set-tablespace",
    "AT_DetachPartitionFinalize": "detach-partition-finalize",
}
#: Storage parameters that take SHARE UPDATE EXCLUSIVE; others (user_catalog_table, a GIN index's fastupdate) the most.
_LIGHT_PARAMETERS = frozenset(
    "fillfactor toast_tuple_target parallel_workers vacuum_index_cleanup vacuum_truncate "
    "vacuum_max_eager_freeze_failure_rate log_autovacuum_min_duration deduplicate_items".split()
)
_BUILT_IN = frozenset(
    "text uuid json jsonb date bytea inet cidr macaddr money xml oid name tsvector tsquery point box circle polygon "
    "int2 int4 int8 float4 float8 numeric bool varchar bpchar timestamp timestamptz time timetz interval "
    "int4range int8range numrange tsrange tstzrange daterange jsonpath pg_lsn citext hstore vector".split()
)
#: Constraints that build an index, and their forms.
_INDEXED = {
    "CONSTR_UNIQUE": "add-unique",
    "CONSTR_PRIMARY": "add-primary-key",
    "CONSTR_EXCLUSION": "add-exclude",
}
_SERIAL = frozenset("serial serial2 serial4 serial8 smallserial bigserial".split())


def alter_table(statement: Any, effects: Effects) -> None:
    """Judge an ALTER TABLE, INDEX, VIEW, SEQUENCE … : one lock for the whole, the strongest of its parts."""
    from postgast import pg_query_pb2 as pb

    what = pb.ObjectType.Name(statement.objtype).removeprefix("OBJECT_").replace("_", " ")
    what = {"MATVIEW": "MATERIALIZED VIEW"}.get(what, what)
    effects.verb = f"ALTER {what}"
    if what == "TYPE":
        effects.note("tables with a column of this type are locked too (ACCESS EXCLUSIVE); the text does not name them")
    relation = statement.relation
    table = table_name(relation)
    of = effects.names.table_of(table) if what == "INDEX" else None
    if of is not None and effects.names.has(of):
        effects.names.tables.add(table)
    new = effects.names.has(table)
    strongest = Lock.NONE
    for node in statement.cmds:
        command = node.alter_table_cmd
        name = pb.AlterTableType.Name(command.subtype)
        definition = getattr(command, "def")  # a keyword of Python, so not command.def
        key = _FORMS.get(name)
        lock = forms.newest(key).lock() if key else Lock.ACCESS_EXCLUSIVE
        judge = _PARTS.get(name)
        if judge is not None:
            lock = judge(command, definition, table, effects) or lock
        elif key is not None:
            effects.as_measured(key)
        elif name not in _FOREIGN:
            effects.note(f"{name.removeprefix('AT_')} is not known: the strongest lock and a rewrite are assumed")
            effects.lasts(Duration.REWRITE)
        if lock.rank > strongest.rank:
            strongest = lock
    if what == "TYPE":
        effects.take(f'tables with a column of type "{table}"', Lock.ACCESS_EXCLUSIVE, known=False)
        return
    if what == "SEQUENCE" and strongest.rank > Lock.NONE.rank:
        strongest = Lock.ACCESS_EXCLUSIVE
    effects.take(table, strongest)
    if new:
        # Nothing waits for a table that nobody else can see yet, however long the work on it takes.
        effects.duration = Duration.INSTANT
        effects.destroys = False
        effects.notes.clear()


def foreign_key(constraint: Any, effects: Effects, *, validated: bool) -> None:
    """Judge what a foreign key does to the table it refers to."""
    parent = table_name(constraint.pktable)
    facts = forms.newest("add-foreign-key" if validated else "add-foreign-key-not-valid")
    effects.take(parent, facts.lock("parent"), parent=True)
    effects.lasts(facts.duration)
    if validated:
        effects.note("checks every row while writes to both tables wait; NOT VALID, then VALIDATE CONSTRAINT, does not")


def _add_column(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    column = definition.column_def
    kinds = {_constraint_kind(item): item.constraint for item in column.constraints}
    type_name = strings(column.type_name.names)
    name = column.colname
    if type_name and type_name[-1] in _SERIAL and len(type_name) == 1:
        effects.as_measured("add-column-serial")
        effects.note(f'rewrites the table: "{name}" takes a sequence value for every row')
    elif type_name and type_name[0] != "pg_catalog" and not (len(type_name) == 1 and type_name[0] in _BUILT_IN):
        effects.note(f'if "{qualified(type_name)}" is a domain with a constraint, the table is rewritten')
    _column_values(name, kinds, effects)
    if "CONSTR_CHECK" in kinds:
        effects.as_measured("add-column-check")
        effects.note("an inline CHECK scans the table under the lock")
    if "CONSTR_UNIQUE" in kinds or "CONSTR_PRIMARY" in kinds:
        effects.as_measured("add-column-unique")
        effects.note("builds an index under the lock")
    filled = "CONSTR_DEFAULT" in kinds and not _is_null(kinds["CONSTR_DEFAULT"].raw_expr)
    if "CONSTR_FOREIGN" in kinds:
        foreign_key(kinds["CONSTR_FOREIGN"], effects, validated=False)
        if filled:
            effects.as_measured("add-column-references-default")
            effects.note("a default with REFERENCES scans both tables under the locks")
    filled = filled or effects.duration is Duration.REWRITE or "CONSTR_GENERATED" in kinds
    if ("CONSTR_NOTNULL" in kinds or "CONSTR_PRIMARY" in kinds) and not filled:
        effects.note(f'fails if the table has rows: "{name}" is NOT NULL and has no default')
    return None


def _column_values(name: str, kinds: dict[str, Any], effects: Effects) -> None:
    """Judge where a new column's values come from: only those that are the same for every row cost nothing."""
    if "CONSTR_DEFAULT" in kinds:
        volatile, unknown = volatile_calls(kinds["CONSTR_DEFAULT"].raw_expr)
        if volatile:
            effects.as_measured("add-column-volatile-default")
            effects.note(f"rewrites the table: {volatile[0]}() gives another value for every row")
        elif unknown:
            effects.as_measured("add-column-volatile-default")
            effects.note(f"rewrites the table if {unknown[0]}() is volatile, which the text does not tell")
    if "CONSTR_IDENTITY" in kinds:
        effects.as_measured("add-column-identity")
        effects.note(f'rewrites the table: "{name}" takes a sequence value for every row')
    if "CONSTR_GENERATED" in kinds and kinds["CONSTR_GENERATED"].generated_kind != "v":
        effects.as_measured("add-column-stored")
        effects.note(f'rewrites the table: "{name}" is stored for every row')


def _add_constraint(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    constraint = definition.constraint
    kind = _constraint_kind(definition)
    unchecked = constraint.skip_validation or not constraint.is_enforced
    if kind == "CONSTR_CHECK" and constraint.conname and constraint.is_enforced:
        column = _never_null(constraint.raw_expr)
        if column:
            effects.names.not_null_checks[table, constraint.conname] = (column, not unchecked)
    if kind == "CONSTR_FOREIGN":
        validated = not unchecked and not effects.names.has(table)
        foreign_key(constraint, effects, validated=validated)
        return forms.newest("add-foreign-key" if validated else "add-foreign-key-not-valid").lock()
    if kind == "CONSTR_CHECK":
        if unchecked:
            return effects.as_measured("add-check-not-valid")
        effects.note("checks every row under the lock; NOT VALID, then VALIDATE CONSTRAINT, does not")
        return effects.as_measured("add-check")
    if kind == "CONSTR_NOTNULL":
        if constraint.skip_validation:
            return effects.as_measured("add-not-null-not-valid")
        effects.note("looks for NULL in every row under the lock, unless a valid CHECK proves there is none")
        return effects.as_measured("add-not-null")
    if kind in ("CONSTR_UNIQUE", "CONSTR_PRIMARY") and constraint.indexname:
        if kind == "CONSTR_UNIQUE":
            return effects.as_measured("add-unique-using-index")
        effects.note("looks for NULL in every row under the lock, unless the key's columns are NOT NULL already")
        return effects.as_measured("add-primary-key-using-index-nullable")
    if kind in _INDEXED:
        effects.note("builds an index under the lock")
        return effects.as_measured(_INDEXED[kind])
    return None


def _never_null(expression: Any) -> str | None:
    """Return the column of an expression that is `column IS NOT NULL` and nothing else."""
    if expression.WhichOneof("node") != "null_test":
        return None
    if grammar.symbol("NullTestType", expression.null_test.nulltesttype) != "IS_NOT_NULL":
        return None
    argument = expression.null_test.arg
    names = strings(argument.column_ref.fields) if argument.WhichOneof("node") == "column_ref" else []
    return names[-1] if names else None


def _set_not_null(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    if effects.names.proven(table, command.name):
        return effects.as_measured("set-not-null-proven")
    effects.note("looks for NULL in every row under the lock, unless a valid CHECK proves there is none")
    return effects.as_measured("set-not-null")


def _rewrite(key: str, why: str) -> Callable[[Any, Any, str, Effects], Lock | None]:
    def judge(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
        effects.note(why)
        return effects.as_measured(key)

    return judge


def _drop_column(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    effects.destroys = True
    effects.note(
        "if the column has a foreign key, the table it refers to is locked too (ACCESS EXCLUSIVE); "
        "the text does not name it"
    )
    _cascades(command, effects)
    return None


def _drop_constraint(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    if effects.names.not_null_checks.pop((table, command.name), None):
        return None
    effects.note(
        "if it is a foreign key, the table it refers to is locked too (ACCESS EXCLUSIVE); the text does not name it"
    )
    _cascades(command, effects)
    return None


def _alter_constraint(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    effects.note("the table that the foreign key refers to may be locked too; the text does not name it")
    change = getattr(definition, "atalter_constraint", None)
    if change is not None and change.alter_enforceability and change.is_enforced:
        effects.as_measured("alter-constraint-enforced")
        effects.note("ENFORCED checks every row under the lock")
    return None


def _cascades(command: Any, effects: Effects) -> None:
    from postgast import pg_query_pb2 as pb

    if command.behavior == pb.DROP_CASCADE:
        effects.destroys = True
        effects.note("CASCADE drops what depends on it too, and locks it; the text does not name it")


def _validate(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    check = effects.names.not_null_checks.get((table, command.name))
    if check:
        effects.names.not_null_checks[table, command.name] = (check[0], True)
    return effects.as_measured("validate-check")


def _parameters(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    names = [item.def_elem.defname for item in definition.list.items]
    light = all(name in _LIGHT_PARAMETERS or name.startswith("autovacuum_") for name in names)
    return effects.as_measured("set-fillfactor" if light else "set-user-catalog-table")


def _inherit(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    effects.take(table_name(definition.range_var), forms.newest("inherit").lock("inherited"), parent=True)
    return None


def _disinherit(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    effects.take(table_name(definition.range_var), forms.newest("no-inherit").lock("inherited"), parent=True)
    return None


def _attach(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    child = table_name(definition.partition_cmd.name)
    if "INDEX" in effects.verb:
        # "table" is here the partitioned index itself; of the tables only ACCESS SHARE is wanted.
        facts = forms.newest("attach-index-partition")
        effects.take(child, facts.lock("index"))
        return facts.lock()
    facts = forms.newest("attach-partition")
    effects.take(table, facts.lock(), parent=True)
    if effects.take(child, facts.lock("partition")):
        effects.lasts(facts.duration)
        effects.note("checks every row of the partition under the lock, unless a valid CHECK matches its bounds")
        effects.note("builds every index of the partitioned table that the partition lacks")
    effects.note("a default partition is locked too (ACCESS EXCLUSIVE) and scanned; the text does not name it")
    return facts.lock()


def _detach(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    part = definition.partition_cmd
    facts = forms.newest("detach-partition-concurrently" if part.concurrent else "detach-partition")
    effects.lasts(facts.duration)
    effects.take(table, facts.lock(), parent=True)
    effects.take(table_name(part.name), facts.lock("partition"))
    if part.concurrent:
        effects.transactional = False
        effects.verb += " DETACH PARTITION CONCURRENTLY"
        effects.note("waits for every transaction that uses the table; a cut connection leaves it to DETACH … FINALIZE")
    else:
        effects.note("a default partition is locked too (ACCESS EXCLUSIVE); the text does not name it")
    return facts.lock()


def _finalize(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    facts = forms.newest("detach-partition-finalize")
    effects.take(table, facts.lock(), parent=True)
    effects.take(table_name(definition.partition_cmd.name), facts.lock("partition"))
    return facts.lock()


def _default(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    if definition.WhichOneof("node") is not None:
        effects.take_all(mentioned(definition))
    return None


_PARTS: dict[str, Callable[[Any, Any, str, Effects], Lock | None]] = {
    "AT_AddColumn": _add_column,
    "AT_AddConstraint": _add_constraint,
    "AT_SetNotNull": _set_not_null,
    "AT_AlterColumnType": _rewrite(
        "alter-type", "rewrites the table unless the new type is only wider; the text does not tell"
    ),
    "AT_SetExpression": _rewrite("set-expression", "a stored generated column is computed anew for every row"),
    "AT_SetLogged": _rewrite("set-logged", "rewrites the table"),
    "AT_SetUnLogged": _rewrite("set-unlogged", "rewrites the table"),
    "AT_SetAccessMethod": _rewrite("set-access-method", "rewrites the table"),
    "AT_SetTableSpace": _rewrite("set-tablespace", "copies the table to another disk"),
    "AT_DropColumn": _drop_column,
    "AT_DropConstraint": _drop_constraint,
    "AT_AlterConstraint": _alter_constraint,
    "AT_ValidateConstraint": _validate,
    "AT_SetRelOptions": _parameters,
    "AT_ResetRelOptions": _parameters,
    "AT_AddInherit": _inherit,
    "AT_DropInherit": _disinherit,
    "AT_AttachPartition": _attach,
    "AT_DetachPartition": _detach,
    "AT_DetachPartitionFinalize": _finalize,
    "AT_ColumnDefault": _default,
}
#: Parts of foreign tables alone, which take ACCESS EXCLUSIVE for a moment.
_FOREIGN = frozenset(("AT_AlterColumnGenericOptions", "AT_GenericOptions"))


def _constraint_kind(node: Any) -> str:
    from postgast import pg_query_pb2 as pb

    return str(pb.ConstrType.Name(node.constraint.contype))


def _is_null(node: Any) -> bool:
    return bool(node.WhichOneof("node") == "a_const" and node.a_const.isnull)
