"""What each part of ALTER TABLE does: its lock, whether it scans or rewrites, which other tables it takes along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.databases.postgresql.relations import mentioned, qualified, strings, table_name, volatile_calls
from segue.model.impact import Duration, Lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from segue.databases.postgresql.effects import Effects

#: Parts that take less than ACCESS EXCLUSIVE. A part that is not listed, known or not, takes ACCESS EXCLUSIVE.
_WEAKER = {
    "AT_EnableTrig": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_EnableAlwaysTrig": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_EnableReplicaTrig": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_DisableTrig": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_EnableTrigAll": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_DisableTrigAll": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_EnableTrigUser": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_DisableTrigUser": Lock.SHARE_ROW_EXCLUSIVE,
    "AT_SetStatistics": Lock.SHARE_UPDATE_EXCLUSIVE,
    "AT_SetOptions": Lock.SHARE_UPDATE_EXCLUSIVE,
    "AT_ResetOptions": Lock.SHARE_UPDATE_EXCLUSIVE,
    "AT_ClusterOn": Lock.SHARE_UPDATE_EXCLUSIVE,
    "AT_DropCluster": Lock.SHARE_UPDATE_EXCLUSIVE,
    "AT_ValidateConstraint": Lock.SHARE_UPDATE_EXCLUSIVE,
    "AT_AttachPartition": Lock.SHARE_UPDATE_EXCLUSIVE,
    "AT_DetachPartitionFinalize": Lock.SHARE_UPDATE_EXCLUSIVE,
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
        lock = _WEAKER.get(name, Lock.ACCESS_EXCLUSIVE)
        judge = _PARTS.get(name)
        if judge is not None:
            lock = judge(command, definition, table, effects) or lock
        elif name not in _PLAIN and lock is Lock.ACCESS_EXCLUSIVE:
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
    effects.take(parent, Lock.SHARE_ROW_EXCLUSIVE, parent=True)
    if validated:
        effects.lasts(Duration.SCAN)
        effects.note("checks every row while writes to both tables wait; NOT VALID, then VALIDATE CONSTRAINT, does not")


def _add_column(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    column = definition.column_def
    kinds = {_constraint_kind(item): item.constraint for item in column.constraints}
    type_name = strings(column.type_name.names)
    name = column.colname
    if type_name and type_name[-1] in _SERIAL and len(type_name) == 1:
        effects.lasts(Duration.REWRITE)
        effects.note(f'rewrites the table: "{name}" takes a sequence value for every row')
    elif type_name and type_name[0] != "pg_catalog" and not (len(type_name) == 1 and type_name[0] in _BUILT_IN):
        effects.note(f'if "{qualified(type_name)}" is a domain with a constraint, the table is rewritten')
    _column_values(name, kinds, effects)
    if "CONSTR_CHECK" in kinds:
        effects.lasts(Duration.SCAN)
        effects.note("an inline CHECK scans the table under the lock")
    if "CONSTR_UNIQUE" in kinds or "CONSTR_PRIMARY" in kinds:
        effects.lasts(Duration.INDEX_BUILD)
        effects.note("builds an index under the lock")
    filled = "CONSTR_DEFAULT" in kinds and not _is_null(kinds["CONSTR_DEFAULT"].raw_expr)
    if "CONSTR_FOREIGN" in kinds:
        foreign_key(kinds["CONSTR_FOREIGN"], effects, validated=False)
        if filled:
            effects.lasts(Duration.SCAN)
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
            effects.lasts(Duration.REWRITE)
            effects.note(f"rewrites the table: {volatile[0]}() gives another value for every row")
        elif unknown:
            effects.lasts(Duration.REWRITE)
            effects.note(f"rewrites the table if {unknown[0]}() is volatile, which the text does not tell")
    if "CONSTR_IDENTITY" in kinds:
        effects.lasts(Duration.REWRITE)
        effects.note(f'rewrites the table: "{name}" takes a sequence value for every row')
    if "CONSTR_GENERATED" in kinds and kinds["CONSTR_GENERATED"].generated_kind != "v":
        effects.lasts(Duration.REWRITE)
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
        foreign_key(constraint, effects, validated=not unchecked and not effects.names.has(table))
        return Lock.SHARE_ROW_EXCLUSIVE
    if kind == "CONSTR_CHECK" and not unchecked:
        effects.lasts(Duration.SCAN)
        effects.note("checks every row under the lock; NOT VALID, then VALIDATE CONSTRAINT, does not")
    elif kind == "CONSTR_NOTNULL" and not constraint.skip_validation:
        effects.lasts(Duration.SCAN)
        effects.note("looks for NULL in every row under the lock, unless a valid CHECK proves there is none")
    elif kind in ("CONSTR_UNIQUE", "CONSTR_PRIMARY") and constraint.indexname:
        if kind == "CONSTR_PRIMARY":
            effects.lasts(Duration.SCAN)
            effects.note("looks for NULL in every row under the lock, unless the key's columns are NOT NULL already")
    elif kind in ("CONSTR_UNIQUE", "CONSTR_PRIMARY", "CONSTR_EXCLUSION"):
        effects.lasts(Duration.INDEX_BUILD)
        effects.note("builds an index under the lock")
    return None


def _never_null(expression: Any) -> str | None:
    """Return the column of an expression that is `column IS NOT NULL` and nothing else."""
    from postgast import pg_query_pb2 as pb

    if expression.WhichOneof("node") != "null_test" or expression.null_test.nulltesttype != pb.IS_NOT_NULL:
        return None
    argument = expression.null_test.arg
    names = strings(argument.column_ref.fields) if argument.WhichOneof("node") == "column_ref" else []
    return names[-1] if names else None


def _set_not_null(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    if effects.names.proven(table, command.name):
        return None
    effects.lasts(Duration.SCAN)
    effects.note("looks for NULL in every row under the lock, unless a valid CHECK proves there is none")
    return None


def _rewrite(why: str) -> Callable[[Any, Any, str, Effects], Lock | None]:
    def judge(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
        effects.lasts(Duration.REWRITE)
        effects.note(why)
        return None

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
        effects.lasts(Duration.SCAN)
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
    effects.lasts(Duration.SCAN)
    return None


def _parameters(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    names = [item.def_elem.defname for item in definition.list.items]
    light = all(name in _LIGHT_PARAMETERS or name.startswith("autovacuum_") for name in names)
    return Lock.SHARE_UPDATE_EXCLUSIVE if light else Lock.ACCESS_EXCLUSIVE


def _inherit(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    effects.take(table_name(definition.range_var), Lock.SHARE_UPDATE_EXCLUSIVE, parent=True)
    return None


def _disinherit(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    effects.take(table_name(definition.range_var), Lock.ACCESS_SHARE, parent=True)
    return None


def _attach(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    child = table_name(definition.partition_cmd.name)
    if "INDEX" in effects.verb:
        effects.take(child, Lock.ACCESS_EXCLUSIVE)
        effects.note("the index's table is locked too (SHARE UPDATE EXCLUSIVE)")
        return Lock.SHARE_UPDATE_EXCLUSIVE
    effects.take(table, Lock.SHARE_UPDATE_EXCLUSIVE, parent=True)
    if effects.take(child, Lock.ACCESS_EXCLUSIVE):
        effects.lasts(Duration.SCAN)
        effects.note("checks every row of the partition under the lock, unless a valid CHECK matches its bounds")
    effects.note("a default partition is locked too (ACCESS EXCLUSIVE) and scanned; the text does not name it")
    return None


def _detach(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    part = definition.partition_cmd
    child = table_name(part.name)
    if part.concurrent:
        effects.transactional = False
        effects.verb += " DETACH PARTITION CONCURRENTLY"
        effects.lasts(Duration.SNAPSHOTS)
        effects.note("waits for every transaction that uses the table; a cut connection leaves it to DETACH … FINALIZE")
        effects.take(table, Lock.SHARE_UPDATE_EXCLUSIVE, parent=True)
        effects.take(child, Lock.ACCESS_EXCLUSIVE)
        return Lock.SHARE_UPDATE_EXCLUSIVE
    effects.take(table, Lock.ACCESS_EXCLUSIVE, parent=True)
    effects.take(child, Lock.ACCESS_EXCLUSIVE)
    effects.note("a default partition is locked too (ACCESS EXCLUSIVE); the text does not name it")
    return None


def _finalize(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    effects.take(table, Lock.SHARE_UPDATE_EXCLUSIVE, parent=True)
    effects.take(table_name(definition.partition_cmd.name), Lock.ACCESS_EXCLUSIVE)
    return None


def _default(command: Any, definition: Any, table: str, effects: Effects) -> Lock | None:
    if definition.WhichOneof("node") is not None:
        effects.take_all(mentioned(definition))
    return None


_PARTS: dict[str, Callable[[Any, Any, str, Effects], Lock | None]] = {
    "AT_AddColumn": _add_column,
    "AT_AddConstraint": _add_constraint,
    "AT_SetNotNull": _set_not_null,
    "AT_AlterColumnType": _rewrite("rewrites the table unless the new type is only wider; the text does not tell"),
    "AT_SetExpression": _rewrite("a stored generated column is computed anew for every row"),
    "AT_AddIdentity": lambda *_: None,
    "AT_SetLogged": _rewrite("rewrites the table"),
    "AT_SetUnLogged": _rewrite("rewrites the table"),
    "AT_SetAccessMethod": _rewrite("rewrites the table"),
    "AT_SetTableSpace": _rewrite("copies the table to another disk"),
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
#: Parts that take ACCESS EXCLUSIVE for a moment and touch nothing but the catalogue.
_PLAIN = frozenset(
    "AT_DropNotNull AT_DropExpression AT_SetStorage AT_SetCompression AT_AlterColumnGenericOptions AT_ChangeOwner "
    "AT_DropOids AT_EnableRule AT_EnableAlwaysRule AT_EnableReplicaRule AT_DisableRule AT_AddOf AT_DropOf "
    "AT_ReplicaIdentity AT_EnableRowSecurity AT_DisableRowSecurity AT_ForceRowSecurity AT_NoForceRowSecurity "
    "AT_GenericOptions AT_SetIdentity AT_DropIdentity".split()
)


def _constraint_kind(node: Any) -> str:
    from postgast import pg_query_pb2 as pb

    return str(pb.ConstrType.Name(node.constraint.contype))


def _is_null(node: Any) -> bool:
    return bool(node.WhichOneof("node") == "a_const" and node.a_const.isnull)
