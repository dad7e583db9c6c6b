"""Asks a Django project for the SQL of its migrations, an operation at a time, without a database.

What Django would ask a database, the names of constraints, is answered from the SQL so far. What needs one in
earnest is said.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any


class NeedsDatabase(Exception):
    """Raised where something asks the database."""


class Nobody:
    """A cursor of no database: what reads the catalogue may have it, nobody may ask it anything."""

    def __enter__(self) -> Nobody:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def close(self) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> Any:
        raise NeedsDatabase("it asks the database")


def main() -> None:
    """Answer the question."""
    answer, question = sys.argv[1], json.loads(sys.argv[2])
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    if question["settings"]:
        os.environ["DJANGO_SETTINGS_MODULE"] = question["settings"]
    with open(answer, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(asked(question), file)


def asked(question: dict[str, Any]) -> dict[str, Any]:
    """Return the migrations in the order in which they are applied, with the SQL of each operation."""
    import django

    made = watched()
    django.setup()
    from django.db import DEFAULT_DB_ALIAS
    from django.db.migrations.loader import MigrationLoader
    from django.db.migrations.state import ProjectState

    connection = without_database(DEFAULT_DB_ALIAS, question["version"])
    loader = MigrationLoader(None)
    known = Constraints()
    connection.introspection.get_constraints = known.of
    connection.introspection.get_sequences = lambda *_: []
    state = ProjectState(real_apps=loader.unmigrated_apps)
    plan: list[Any] = []
    for leaf in loader.graph.leaf_nodes():
        plan += [key for key in loader.graph.forwards_plan(leaf) if key not in plan]
    migrations = [applied(loader.graph.nodes[key], state, connection, known, made) for key in plan]
    return {"migrations": migrations, "session": session(connection), "version": django.get_version()}


def watched() -> dict[int, list[tuple[str, int]]]:
    """Return where each operation was made, by its id: files and lines, the innermost first."""
    from django.db.migrations.operations.base import Operation

    made: dict[int, list[tuple[str, int]]] = {}
    plain = Operation.__new__

    def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
        operation = plain(cls, *args, **kwargs)
        frame: Any = sys._getframe(1)
        places: list[tuple[str, int]] = []
        while frame is not None and len(places) < 40:
            places.append((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
        made[id(operation)] = places
        return operation

    Operation.__new__ = staticmethod(new)
    return made


def without_database(alias: str, version: int) -> Any:
    """Return the connection that migrations are made for: PostgreSQL, but nobody is there."""
    from django.db import connections

    connection = connections[alias]
    if connection.vendor != "postgresql":
        from django.db.backends.postgresql.base import DatabaseWrapper

        chosen = dict(connection.settings_dict, ENGINE="django.db.backends.postgresql", OPTIONS={})
        connection = DatabaseWrapper(chosen, alias)
        connections[alias] = connection
    connection.__dict__["pg_version"] = version * 10000
    connection.cursor = Nobody

    def refused(*_: Any, **__: Any) -> Any:
        raise NeedsDatabase("it asks the database")

    connection.connect = connection.ensure_connection = connection.get_new_connection = refused
    connection.ops.compose_sql = lambda sql, params: (
        str(sql) % tuple(connection.schema_editor(collect_sql=True).quote_value(value) for value in params)
    )
    return connection


def session(connection: Any) -> dict[str, str]:
    """Return the settings that the project's sessions begin with."""
    words = str(connection.settings_dict.get("OPTIONS", {}).get("options", "")).replace("-c", " ").split()
    return dict(word.split("=", 1) for word in words if "=" in word)


class Constraints:
    """The constraints and indexes that the SQL so far has made, as Django's introspection tells them."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, dict[str, Any]]] = {}

    def of(self, _cursor: Any, table: str) -> dict[str, dict[str, Any]]:
        """Return those of a table."""
        return self.tables.get(table, {})

    def add(self, table: str, name: str, columns: list[str], **kind: Any) -> None:
        """Remember one."""
        plain: dict[str, Any] = {
            "columns": columns,
            "primary_key": False,
            "unique": False,
            "foreign_key": None,
            "check": False,
            "index": False,
            "definition": None,
            "options": None,
            "orders": [],
            "type": "btree",
        }
        self.tables.setdefault(table, {})[name] = dict(plain, **kind)

    def column(self, table: str, field: Any, connection: Any) -> None:
        """Remember what is written with a column."""
        column = field.column
        if field.primary_key:
            self.add(table, table + "_pkey", [column], primary_key=True, unique=True, index=True)
        elif field.unique:
            self.add(table, f"{table}_{column}_key", [column], unique=True, index=True)
        if field.db_parameters(connection=connection).get("check"):
            self.add(table, f"{table}_{column}_check", [column], check=True)

    def sent(self, statement: Any) -> None:
        """Take in a statement that Django put together from parts."""
        parts = getattr(statement, "parts", None)
        if not parts or "table" not in parts or "name" not in parts:
            return
        words, table, name = statement.template.upper(), bare(parts["table"]), bare(parts["name"])
        if "DROP CONSTRAINT" in words or "DROP INDEX" in words:
            self.tables.get(table, {}).pop(name, None)
            return
        columns = [bare(item) for item in getattr(parts.get("columns", parts.get("column")), "columns", [])]
        if "FOREIGN KEY" in words or "REFERENCES" in words:
            to = (bare(parts.get("to_table", "")), "")
            self.add(table, name, columns, foreign_key=to)
        elif "PRIMARY KEY" in words:
            self.add(table, name, columns, primary_key=True, unique=True, index=True)
        elif "UNIQUE" in words:
            self.add(table, name, columns, unique=True, index=True)
        elif "CHECK" in words:
            self.add(table, name, columns, check=True)
        elif "CREATE" in words and "INDEX" in words:
            self.add(table, name, columns, index=True, type="btree" if parts.get("extra") in ("", None) else "like")

    def rename(self, old: str, new: str) -> None:
        """Follow a table."""
        self.tables[new] = self.tables.pop(old, {})

    def rename_column(self, table: str, old: str, new: str) -> None:
        """Follow a column."""
        for item in self.tables.get(table, {}).values():
            item["columns"] = [new if name == old else name for name in item["columns"]]


def bare(name: Any) -> str:
    """Return a name without quotes."""
    return str(name).strip('"')


def applied(
    migration: Any, state: Any, connection: Any, known: Constraints, made: dict[int, list[tuple[str, int]]]
) -> dict[str, Any]:
    """Return the SQL of one migration; the state moves on."""
    module = sys.modules[migration.__module__]
    path = os.path.abspath(module.__file__ or "")  # noqa: PTH100
    operations: list[dict[str, Any]] = []
    editor = connection.schema_editor(collect_sql=True, atomic=migration.atomic)
    watch(editor, known, connection)
    unanalysed: list[str] = []
    owners: dict[int, int] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(programs(unanalysed))
        editor.deferred_sql = []
        for number, operation in enumerate(migration.operations):
            del unanalysed[:]
            before = len(editor.collected_sql)
            places = [line for file, line in made.get(id(operation), ()) if os.path.abspath(file) == path]  # noqa: PTH100
            old = state.clone()
            operation.state_forwards(migration.app_label, state)
            try:
                if operation.reduces_to_sql:
                    operation.database_forwards(migration.app_label, editor, old, state)
                else:
                    unanalysed.append(f"what {type(operation).__name__} does is not SQL")
            except NeedsDatabase as error:
                unanalysed.append(f"{type(operation).__name__} needs a database: {error}")
            except Exception as error:
                unanalysed.append(f"{type(operation).__name__} has no SQL: {type(error).__name__}: {error}")
            sql = list(editor.collected_sql[before:])
            # In a migration that is not atomic, an operation may still ask for a transaction of its own.
            alone = bool(sql) and not migration.atomic and bool(getattr(operation, "atomic", False))
            for item in editor.deferred_sql:
                owners.setdefault(id(item), number)
            operations.append(
                {
                    "line": places[0] if places else 0,
                    "sql": ["BEGIN;", *sql, "COMMIT;"] if alone else sql,
                    "later": [],
                    "unanalysed": list(unanalysed),
                }
            )
        for item in editor.deferred_sql:
            before = len(editor.collected_sql)
            editor.execute(item, None)
            operations[owners[id(item)]]["later"] += editor.collected_sql[before:]
    return {
        "app": migration.app_label,
        "name": migration.name,
        "path": path,
        "atomic": bool(migration.atomic),
        "operations": operations,
    }


def programs(unanalysed: list[str]) -> Any:
    """Keep programs from being run, also those inside other operations; return what undoes this."""
    from django.db.migrations.operations import RunPython

    plain = RunPython.database_forwards

    def said(self: Any, *_: Any) -> None:
        if self.code is not RunPython.noop:
            name = getattr(self.code, "__name__", "a function")
            unanalysed.append(f"what {name}() does is not looked into")

    reduces = RunPython.reduces_to_sql
    RunPython.database_forwards, RunPython.reduces_to_sql = said, True

    def undo() -> None:
        RunPython.database_forwards, RunPython.reduces_to_sql = plain, reduces

    return undo


def watch(editor: Any, known: Constraints, connection: Any) -> None:
    """Let what the editor makes be known."""
    execute, create_model, add_field, rename = (
        editor.execute,
        editor.create_model,
        editor.add_field,
        editor.alter_db_table,
    )
    delete_model, alter_field = editor.delete_model, editor.alter_field

    def executed(sql: Any, params: Any = ()) -> None:
        execute(sql, params)
        known.sent(sql)

    def created(model: Any) -> None:
        create_model(model)
        table = model._meta.db_table
        for field in model._meta.local_fields:
            if field.column:
                known.column(table, field, connection)
        for item in model._meta.constraints:
            columns = [model._meta.get_field(name).column for name in getattr(item, "fields", ())]
            unique = type(item).__name__ == "UniqueConstraint"
            known.add(table, item.name, columns, unique=unique, index=unique, check=not unique)

    def added(model: Any, field: Any) -> None:
        add_field(model, field)
        if field.column and not field.many_to_many:
            known.column(model._meta.db_table, field, connection)
            if field.remote_field and field.db_constraint:
                to = field.remote_field.model._meta.db_table
                name = editor._fk_constraint_name(model, field, "_fk_%(to_table)s_%(to_column)s")
                known.add(model._meta.db_table, bare(name), [field.column], foreign_key=(to, ""))

    def renamed(model: Any, old: str, new: str) -> None:
        rename(model, old, new)
        if old != new:
            known.rename(old, new)

    def deleted(model: Any) -> None:
        delete_model(model)
        known.tables.pop(model._meta.db_table, None)

    def altered(model: Any, old: Any, new: Any, strict: bool = False) -> None:
        alter_field(model, old, new, strict)
        if old.column and new.column and old.column != new.column:
            known.rename_column(model._meta.db_table, old.column, new.column)

    editor.execute, editor.create_model, editor.add_field = executed, created, added
    editor.alter_db_table, editor.delete_model, editor.alter_field = renamed, deleted, altered


if __name__ == "__main__":
    main()
