"""Texts of other tools are read as they would be run, and every character keeps its place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from segue.databases.postgresql.changes import read
from segue.lint.sources import gather, source


def test_psql_commands_and_data_are_blank_and_places_stay() -> None:
    text = (
        "\\set x 1\nSELECT E'\\'\\\\', $$ \\d $$ /* \\q */ \\gexec\nCOPY t FROM stdin;\nit's\t\\N\n\\.\nDROP TABLE t;\n"
    )
    found = source("x.sql", text.encode())
    assert len(found.sql) == len(text)
    assert [item.sql for item in read(found.sql)] == [
        "SELECT E'\\'\\\\', $$ \\d $$ /* \\q */",
        "COPY t FROM stdin",
        "DROP TABLE t",
    ]
    assert read(found.sql)[-1].offset == text.index("DROP")


@pytest.mark.parametrize(
    ("text", "in_transaction"),
    [
        ("-- migrate:up\nCREATE TABLE a ();\n-- migrate:down\nDROP TABLE a;\n", True),
        ("-- migrate:up transaction:false\nCREATE TABLE a ();\n-- migrate:down\nDROP TABLE a;\n", False),
        ("-- +goose Up\nCREATE TABLE a ();\n-- +goose Down\nDROP TABLE a;\n", True),
        ("-- +goose NO TRANSACTION\n-- +goose Up\nCREATE TABLE a ();\n-- +goose Down\nDROP TABLE a;\n", False),
        ("CREATE TABLE a ();\n", None),
    ],
)
def test_only_the_way_forward_is_read(text: str, in_transaction: bool | None) -> None:
    found = source("x.sql", text.encode())
    assert [item.sql for item in read(found.sql)] == ["CREATE TABLE a ()"]
    assert found.in_transaction is in_transaction


def test_folder_is_read_by_number_without_the_ways_back(tmp_path: Path) -> None:
    for name in ("V10__b.sql", "V2__a.sql", "U2__a.sql", "3_x.up.sql", "3_x.down.sql", "verify/a.sql", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("SELECT 1;")
    names = [Path(found.path).name for found in gather([str(tmp_path)])]
    assert names == ["3_x.up.sql", "V2__a.sql", "V10__b.sql"]


@pytest.mark.parametrize(
    ("raw", "note"),
    [
        ("SELECT 'é'".encode(), ""),
        ("SELECT 'é'".encode("utf-8-sig"), ""),
        ("SELECT 'é'".encode("utf-16"), "read as UTF-16"),
        ("SELECT 'é'".encode("cp1252"), "is not UTF-8: read as cp1252"),
        ("SET client_encoding = 'LATIN2';SELECT 'é'".encode("latin2"), "is not UTF-8: read as LATIN2"),
    ],
)
def test_other_encodings_are_read_and_said(raw: bytes, note: str) -> None:
    found = source("x.sql", raw)
    assert found.text.endswith("SELECT 'é'")
    assert found.note == note


def test_migration_of_prisma_is_one_transaction_if_it_has_several_statements(tmp_path: Path) -> None:
    alone = "CREATE INDEX CONCURRENTLY a ON orders (id);\n"
    for name, text in {"20260101000000_one": alone, "20260102000000_two": alone + "SELECT 1;\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "migration.sql").write_text(text)
    command = [sys.executable, "-m", "segue", "lint", ".", "--format", "gcc", "--select", "concurrently-in-transaction"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["20260102000000_two/migration.sql"]
