"""Migrations that are programs: what a small Django project and a small Alembic project make is judged at its lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MANAGE = """import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
"""
SETTINGS = """SECRET_KEY = "x"
INSTALLED_APPS = ["orders"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
FIRST = """from django.db import migrations, models

class Migration(migrations.Migration):
    operations = [
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(primary_key=True)),
                ("code", models.CharField(max_length=9, unique=True)),
            ],
        ),
        migrations.AddField("Order", "note", models.CharField(max_length=9, db_index=True, default="")),
    ]
"""
SECOND = """from django.db import migrations, models

def fill(apps, editor):
    raise SystemExit("nobody runs this")

class Migration(migrations.Migration):
    dependencies = [("orders", "0001_initial")]
    operations = [
        migrations.AlterField("Order", "code",
                              models.CharField(max_length=9)),
        migrations.RunPython(fill),
        # segue: ignore create-index-not-concurrently reason="small"
        migrations.AddIndex("Order", models.Index(fields=["code"], name="by_code")),
        migrations.AddIndex("Order", models.Index(fields=["note", "code"], name="by_both")),
        migrations.RunSQL("UPDATE orders_order SET note = ''"),
    ]
"""
THIRD = """from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models

class Migration(migrations.Migration):
    atomic = False
    dependencies = [("orders", "0002_more")]
    operations = [AddIndexConcurrently("Order", models.Index(fields=["note"], name="by_note"))]
"""


def lint(folder: Path, *arguments: str) -> dict[str, Any]:
    """Return what the command prints as JSON."""
    command = [sys.executable, "-m", "segue", "lint", *arguments, "--ignore", "lock-without-timeout", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def lines(content: dict[str, Any]) -> list[tuple[str, int, str]]:
    """Return where something was found, and by which rule."""
    return [(Path(item["file"]).name, item["line"], item["rule"]) for item in content["findings"]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Django project of one application with three migrations."""
    folder = tmp_path_factory.mktemp("shop")
    for name, text in {
        "manage.py": MANAGE,
        "shop/__init__.py": "",
        "shop/settings.py": SETTINGS,
        "orders/__init__.py": "",
        "orders/migrations/__init__.py": "",
        "orders/migrations/0001_initial.py": FIRST,
        "orders/migrations/0002_more.py": SECOND,
        "orders/migrations/0003_last.py": THIRD,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_django_operations_are_judged_at_their_lines(shop: Path) -> None:
    content = lint(shop, "manage.py")
    assert lines(content) == [
        ("0002_more.py", 9, "drop-index"),  # the one that Django keeps for LIKE
        ("0002_more.py", 13, "work-under-lock"),
        ("0002_more.py", 14, "create-index-not-concurrently"),
        ("0002_more.py", 14, "work-under-lock"),
        ("0002_more.py", 15, "work-under-lock"),
        ("0002_more.py", 15, "write-all-rows"),
    ]
    assert [(item["line"], item["reason"]) for item in content["unanalysed"]] == [
        (11, "what fill() does is not looked into")
    ]


def test_django_constraint_that_is_dropped_is_named_without_a_database(shop: Path) -> None:
    content = lint(
        shop, "--django", "shop.settings", "--select", "lock-without-timeout", "orders/migrations/0002_more.py"
    )
    command = [sys.executable, "-m", "segue", "lint", "manage.py", "--select", "lock-without-timeout", "--json"]
    done = subprocess.run(command, cwd=shop, capture_output=True, check=False)
    (found,) = json.loads(done.stdout)["findings"]
    assert found["statement"] == 'ALTER TABLE "orders_order" DROP CONSTRAINT "orders_order_code_key"'
    assert (found["line"], found["column"]) == (9, 9)
    assert content["findings"] == []


def test_project_that_cannot_be_loaded_says_why(shop: Path) -> None:
    content = lint(shop, "--django", "nowhere.settings")
    assert "No module named 'nowhere'" in content["error"]["message"]


ENV = """from alembic import context
context.configure(url=context.config.get_main_option("sqlalchemy.url"))
with context.begin_transaction():
    context.run_migrations()
"""
TABLE = """import sqlalchemy as sa
from alembic import op
revision, down_revision = "a1", None

def upgrade():
    op.create_table("orders", sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("day", sa.Date))
    op.create_index("by_id", "orders", ["id"])
"""
INDEX = """import sqlalchemy as sa
from alembic import op
revision, down_revision = "b2", "a1"

def upgrade():
    op.create_index("by_day", "orders", ["day"])
    with op.get_context().autocommit_block():
        op.create_index("by_both", "orders", ["day", "id"], postgresql_concurrently=True)
    op.get_bind().execute(sa.text("UPDATE orders SET day = :day"), {"day": "2026-01-01"})
    for row in op.get_bind().execute(sa.text("SELECT 1")):
        op.execute(f"DROP TABLE {row}")
"""


def test_alembic_calls_are_judged_at_their_lines(tmp_path: Path) -> None:
    versions = tmp_path / "migrations/versions"
    versions.mkdir(parents=True)
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = migrations\nsqlalchemy.url = sqlite://\n")
    (tmp_path / "migrations/env.py").write_text(ENV)
    (versions / "a1.py").write_text(TABLE)
    (versions / "b2.py").write_text(INDEX)
    content = lint(tmp_path, "alembic.ini")
    assert lines(content) == [("b2.py", 6, "create-index-not-concurrently"), ("b2.py", 9, "write-all-rows")]
    (said,) = content["unanalysed"]
    assert said["line"] == 10
    assert "it reads what is in the database" in said["reason"]
