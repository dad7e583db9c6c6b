"""The store has the lesson's tables exactly: from its models as JSON, and from its Prisma file by our own reader."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from segue.schema import prisma, prisma_tables
from segue.store import Store

DATA = Path(__file__).parents[1] / "data"

ELSEWHERE = ("MigrationValidation", "MigrationLog")  # the lesson names them without defining them


@dataclass
class Table:
    columns: dict[str, tuple[str, bool, str | None]]  # name: type, nullable, default; in order
    primary_key: tuple[str, ...] = ()
    uniques: set[tuple[str, ...]] = field(default_factory=set)
    indexes: list[tuple[str, ...]] = field(default_factory=list)
    foreign_keys: set[tuple[tuple[str, ...], str, tuple[str, ...], str]] = field(default_factory=set)
    ours: set[str] = field(default_factory=set)  # columns that say so in their comment


TYPES = {
    "String": "text",
    "Int": "integer",
    "BigInt": "bigint",
    "Float": "double precision",
    "Boolean": "boolean",
    "DateTime": "timestamp with time zone",
    "Json": "jsonb",
    "Int[]": "integer[]",
}


def from_json() -> dict[str, Table]:
    models = json.loads((DATA / "models.json").read_text())
    names = {model["model"]: model["table"] for model in models}
    tables: dict[str, Table] = {}
    for model in models:
        table = Table({})
        for column in model["columns"]:
            name, kind = column["column"], column["type"]
            default = column.get("default")
            if default == "cuid()":
                default = None
            elif default is not None and default.startswith('"'):
                default = f"'{json.loads(default)}'::{TYPES[kind]}"
            table.columns[name] = (TYPES[kind], column["nullable"], default)
            if column.get("id"):
                table.primary_key = (name,)
            if column.get("unique"):
                table.uniques.add((name,))
        table.uniques |= {tuple(unique) for unique in model["unique"]}
        table.indexes = sorted(tuple(index) for index in model["index"])
        for relation in model["relations"]:
            if not relation["many"]:
                action = (relation["on_delete"] or "Restrict").upper()
                key = ((relation["column"],), names[relation["to"]], (relation["references"],), action)
                table.foreign_keys.add(key)
        tables[model["table"]] = table
    return tables


def from_prisma() -> dict[str, Table]:
    schema = prisma.read((DATA / "lesson.prisma").read_text(), elsewhere=ELSEWHERE)
    ours = prisma_tables.Conventions(date_time="timestamp with time zone", nullable_lists=False)
    tables: dict[str, Table] = {}
    for found in prisma_tables.tables(schema, ours):
        tables[found.name] = Table(
            columns={
                each.name: (
                    each.type,
                    each.nullable,
                    {"CURRENT_TIMESTAMP": "now()"}.get(each.default or "", each.default),
                )
                for each in found.columns
            },
            primary_key=found.primary_key,
            uniques=set(found.uniques),
            indexes=sorted(found.indexes),
            foreign_keys={(key.columns, key.table, key.references, key.on_delete) for key in found.foreign_keys},
        )
    return tables


def from_catalog(connection: psycopg.Connection[Any]) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    for table, name, kind, nullable, default, comment in connection.execute(
        """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
            pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relkind = 'r' AND c.relnamespace = 'segue_store'::regnamespace
        ORDER BY c.relname, a.attnum
        """
    ):
        found = tables.setdefault(table, Table({}))
        found.columns[name] = (kind, nullable, default)
        if (comment or "").startswith("segue:"):
            found.ours.add(name)
    names = """(SELECT array_agg(attname::text ORDER BY at) FROM unnest({}) WITH ORDINALITY AS k(n, at)
        JOIN pg_attribute ON attrelid = {} AND attnum = n)"""
    for kind, table, columns, target, references, action in connection.execute(
        f"""
        SELECT contype, conrelid::regclass::text, {names.format("conkey", "conrelid")}, confrelid::regclass::text,
            {names.format("confkey", "confrelid")}, confdeltype
        FROM pg_constraint WHERE connamespace = 'segue_store'::regnamespace AND contype IN ('p', 'u', 'f')
        """
    ):
        found = tables[table.removeprefix("segue_store.")]
        if kind == "p":
            found.primary_key = tuple(columns)
        elif kind == "u":
            found.uniques.add(tuple(columns))
        else:
            word = {"c": "CASCADE", "r": "RESTRICT", "a": "NO ACTION", "n": "SET NULL", "d": "SET DEFAULT"}[action]
            found.foreign_keys.add((tuple(columns), target.removeprefix("segue_store."), tuple(references), word))
    for table, columns in connection.execute(
        f"""
        SELECT indrelid::regclass::text, {names.format("indkey::int2[]", "indrelid")}
        FROM pg_index JOIN pg_class c ON c.oid = indexrelid
        WHERE c.relnamespace = 'segue_store'::regnamespace AND indisvalid AND NOT indisunique AND indpred IS NULL
        """
    ):
        tables[table.removeprefix("segue_store.")].indexes.append(tuple(columns))
    for found in tables.values():
        found.indexes.sort()
    return tables


def differences(expected: dict[str, Table], found: dict[str, Table]) -> list[str]:
    """Return how the store differs; columns of ours may follow the lesson's, with indexes and keys of their own."""
    said: list[str] = []
    for name, table in expected.items():
        if name not in found:
            said.append(f"{name} is missing")
            continue
        there = found[name]
        lessons = [column for column in there.columns if column not in there.ours]
        if lessons != list(table.columns):
            said.append(f"{name} has the columns {lessons}")
        if list(there.columns)[: len(lessons)] != lessons:
            said.append(f"{name} has columns of ours between the lesson's")
        for column, is_like in table.columns.items():
            if there.columns.get(column) != is_like:
                said.append(f"{name}.{column} is {there.columns.get(column)}, not {is_like}")

        def of_the_lesson(columns: tuple[str, ...], ours: set[str] = there.ours) -> bool:
            return not ours & set(columns)

        if there.primary_key != table.primary_key:
            said.append(f"{name} has the primary key {there.primary_key}")
        if (uniques := {each for each in there.uniques if of_the_lesson(each)}) != table.uniques:
            said.append(f"{name} has the uniques {uniques}")
        if (indexes := [each for each in there.indexes if of_the_lesson(each)]) != table.indexes:
            said.append(f"{name} has the indexes {indexes}")
        if (keys := {each for each in there.foreign_keys if of_the_lesson(each[0])}) != table.foreign_keys:
            said.append(f"{name} has the foreign keys {keys}")
    return said


@pytest.fixture
def catalog(store: Store) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(store.url, autocommit=True) as connection:
        yield connection


def test_the_lesson_has_24_tables_and_351_columns() -> None:
    tables = from_json()
    assert len(tables) == 24
    assert sum(len(table.columns) for table in tables.values()) == 351


def test_a_fresh_store_has_the_lessons_tables(catalog: psycopg.Connection[Any]) -> None:
    assert differences(from_json(), from_catalog(catalog)) == []


def test_the_prisma_reader_gives_the_stores_tables(catalog: psycopg.Connection[Any]) -> None:
    tables = from_prisma()
    assert len(tables) == 24
    assert differences(tables, from_catalog(catalog)) == []


def test_the_prisma_reader_and_the_json_agree() -> None:
    assert from_prisma() == from_json()


@pytest.mark.parametrize("expected", [from_json, from_prisma])
def test_each_change_of_the_store_is_found(
    catalog: psycopg.Connection[Any], expected: Callable[[], dict[str, Table]]
) -> None:
    changes = [
        "ALTER TABLE migration_plans ALTER created_by DROP NOT NULL",
        "ALTER TABLE migration_plans ALTER approved_by SET NOT NULL",
        "ALTER TABLE migration_plans ALTER status SET DEFAULT 'approved'",
        "ALTER TABLE migration_plans ALTER created_at DROP DEFAULT",
        "ALTER TABLE data_migration_jobs ALTER total_rows TYPE integer",
        'ALTER TABLE shadow_tables RENAME "syncStatus" TO sync_status',
        "ALTER TABLE environments DROP schema_version",
        "ALTER TABLE environments ADD colour text",
        "ALTER TABLE environments DROP CONSTRAINT environments_name_key",
        "ALTER TABLE migration_steps DROP CONSTRAINT migration_steps_plan_id_step_number_key",
        "ALTER TABLE rollback_strategies ADD UNIQUE (strategy_name)",
        "DROP INDEX migration_steps_plan_id_step_number_idx",
        "CREATE INDEX ON incident_actions (status)",
        "ALTER TABLE test_results DROP CONSTRAINT test_results_execution_id_fkey",
        "ALTER TABLE test_results DROP CONSTRAINT test_results_execution_id_fkey,"
        " ADD FOREIGN KEY (execution_id) REFERENCES test_executions (id) ON DELETE SET NULL",
        "ALTER TABLE migration_executions DROP CONSTRAINT migration_executions_plan_id_fkey,"
        " ADD FOREIGN KEY (plan_id) REFERENCES migration_plans (id) ON DELETE CASCADE",
        "ALTER TABLE test_results DROP CONSTRAINT test_results_pkey",
        "DROP TABLE api_compatibility",
    ]
    for change in changes:
        with catalog.transaction(force_rollback=True):
            catalog.execute("SET LOCAL search_path = segue_store")
            catalog.execute(change)
            catalog.execute("SET LOCAL search_path = pg_catalog")
            assert len(differences(expected(), from_catalog(catalog))) >= 1, change


ADDED = {
    "migration_executions.status": {"waiting", "paused", "cancelled"},
    "online_schema_changes.phase": {
        "capturing",
        "draining",
        "verifying",
        "reversible",
        "failed",
        "cancelled",
        "rolled-back",
    },
    "data_migration_jobs.status": {"cancelled"},
}

# Comments that explain instead of listing words; the one that ends in "etc." lists some of many.
PROSE = re.compile(r"etc\.$|^e\.g\.|null for|^Semantic|^Which|^Encrypted|environment$")


def test_the_store_allows_exactly_the_lessons_words(catalog: psycopg.Connection[Any]) -> None:
    expected: dict[str, set[str]] = {}
    for model in json.loads((DATA / "models.json").read_text()):
        for column in model["columns"]:
            comment = column.get("comment", "")
            if column["type"] == "String" and comment and not PROSE.search(comment):
                name = f"{model['table']}.{column['column']}"
                expected[name] = set(re.split(r", | or ", comment)) | ADDED.get(name, set())
    assert len(expected) == 48
    lessons = from_json()
    found = {
        f"{table}.{column}": set(re.findall(r"'([^']+)'::text", definition))
        for table, column, definition in catalog.execute(
            """
            SELECT c.relname, a.attname, pg_get_constraintdef(k.oid)
            FROM pg_constraint k JOIN pg_class c ON c.oid = conrelid
            JOIN pg_attribute a ON attrelid = c.oid AND attnum = conkey[1]
            WHERE contype = 'c' AND connamespace = 'segue_store'::regnamespace
            """
        )
        if table in lessons and column in lessons[table].columns
    }
    assert found == expected


def test_no_lesson_column_has_a_comment_of_ours(catalog: psycopg.Connection[Any]) -> None:
    found = from_catalog(catalog)
    for name, table in from_json().items():
        assert not found[name].ours & set(table.columns)
