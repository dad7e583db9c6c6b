"""The documentation names what there is, and leaves nothing out."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import segue
from segue import errors, settings, wiring
from segue.errors import ExitCode, SegueError
from segue.planning import planfile

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def below(kind: type[SegueError]) -> Iterator[type[SegueError]]:
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


@cache
def error_classes() -> list[type[SegueError]]:
    """Return every error class of Segue's that a user can meet by its code."""
    for module in pkgutil.walk_packages(segue.__path__, "segue."):
        # A migration runs inside Alembic only; the other one would run the command line.
        if ".versions" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = [SegueError, *below(SegueError)]
    return [kind for kind in found if kind.__module__.startswith("segue.") and not kind.__name__.startswith("_")]


def rows(page: str) -> list[list[str]]:
    """Return the cells of all tables of a page."""
    lines = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if "---" not in line]


# -- commands


def test_the_page_of_commands_is_what_help_says() -> None:
    written = runpy.run_path(str(DOCS / "write.py"))["commands"]()
    assert (DOCS / "commands.md").read_text() == written, "run: .venv/bin/python docs/write.py commands"


def test_the_page_of_locks_is_what_was_measured() -> None:
    written = runpy.run_path(str(DOCS / "write.py"))["locks"]()
    assert (DOCS / "locks.md").read_text() == written, "run: .venv/bin/python docs/write.py locks"


def test_the_page_of_rules_is_what_the_rules_say() -> None:
    written = runpy.run_path(str(DOCS / "write.py"))["rules"]()
    assert (DOCS / "rules.md").read_text() == written, "run: .venv/bin/python docs/write.py rules"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_a_page_names_exist(page: Path) -> None:
    known = re.findall(r"^## (segue(?: [a-z-]+)*)$", (DOCS / "commands.md").read_text(), re.MULTILINE)
    nouns = {name.split()[1] for name in known if name.count(" ") == 2}
    for said in re.findall(r"(?:`|^\s*(?:\$ )?|\"\$\()(segue(?: [a-z]+)+)", page.read_text(), re.MULTILINE):
        words = said.split()
        assert " ".join(words[: 3 if words[1] in nouns and len(words) > 2 else 2]) in known, said


# -- plan files


def test_every_field_of_a_plan_file_is_documented() -> None:
    page = (DOCS / "plan-files.md").read_text()
    schema = planfile.json_schema(wiring.parts().steps)
    tables = set(re.findall(r"`([a-z_]+)`", "\n".join(line for line in page.splitlines() if line.startswith("| `"))))
    fields = {name for part in [schema, *schema["$defs"].values()] for name in part["properties"]}
    assert fields - tables == set()
    assert {kind for kind in wiring.parts().steps if f"## `kind: {kind}`" not in page} == set()


@pytest.mark.parametrize("kind", sorted(wiring.parts().steps))
def test_the_section_of_a_step_kind_has_its_fields(kind: str) -> None:
    page = (DOCS / "plan-files.md").read_text()
    section = page.partition(f"## `kind: {kind}`")[2].partition("\n## ")[0]
    common = page.partition("## Every step")[2].partition("\n## ")[0]
    for name, field in wiring.parts().steps[kind].Params.model_fields.items():
        assert f"`{field.alias or name}`" in common + section


def test_no_field_is_documented_that_does_not_exist() -> None:
    schema = json.dumps(planfile.json_schema(wiring.parts().steps))
    documented = re.findall(r"^\| `([a-z_]+)`", (DOCS / "plan-files.md").read_text(), re.MULTILINE)
    assert [name for name in documented if f'"{name}"' not in schema] == []


def test_the_examples_of_steps_are_valid() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (DOCS / "plan-files.md").read_text(), re.MULTILINE | re.DOTALL)
    steps = [block for block in blocks if block.startswith("  - name:")]
    whole = [block for block in blocks if block.startswith("#")]
    text = "plan: a\nversion: 1.0.0\ndescription: a\nsteps:\n" + "\n".join(steps)
    parts = wiring.parts()
    assert len(steps) == len(parts.steps)
    for source in (text, *whole):
        planfile.read(source, source="docs/plan-files.md", kinds=parts.steps, database=parts.databases["postgresql"])


# -- errors and exit codes


def test_every_error_has_a_code_of_its_own() -> None:
    own = [kind.code for kind in error_classes() if "code" in vars(kind)]
    assert len(own) == len(set(own))
    assert [kind for kind in error_classes() if kind.__module__ == errors.__name__ and "code" not in vars(kind)] == []


def test_the_page_of_errors_has_each_with_its_exit_code() -> None:
    documented = {cells[0]: (cells[1].strip("`"), int(cells[2])) for cells in rows("docs/errors.md")[1:]}
    real = {kind.code: (kind.__name__, int(kind.exit_code)) for kind in error_classes() if "code" in vars(kind)}
    assert documented == real


@pytest.mark.parametrize("page", ["README.md", "docs/exit-codes.md"])
def test_exit_codes_are_all_there(page: str) -> None:
    codes = {int(cells[0]) for cells in rows(page) if cells[0].isdigit()}
    assert codes == set(map(int, ExitCode))


def test_settings_are_all_in_the_readme() -> None:
    table = (ROOT / "README.md").read_text().partition("## Settings")[2].partition("\n## ")[0]
    for name in settings.Settings.__dataclass_fields__:
        assert f"`SEGUE_{name.upper()}`" in table
    assert {name for name in settings.FILE_KEYS if f"| `{name}` |" not in table} == set()


# -- pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`([\w.-]+(?:/[\w.-]+)+)`", page.read_text())
    # A file that the page only proposes has another form, such as `<kind>.py`.
    bases = (ROOT, ROOT / "src/segue", DOCS)
    missing = [path for path in named if not any((base / path).exists() for base in bases)]
    assert missing == []


def test_every_decision_is_listed() -> None:
    listed = re.findall(r"\((\d{4}-[\w-]+\.md)\)", (DOCS / "decisions/README.md").read_text())
    there = sorted(path.name for path in (DOCS / "decisions").glob("[0-9]*.md"))
    assert listed == there
    for path in there:
        number, title = int(path[:4]), (DOCS / "decisions" / path).read_text().splitlines()[0]
        assert title.startswith(f"# {number}. ")


def test_the_schema_of_plan_files_describes_every_field() -> None:
    """An editor shows these words; a field without them is a field that nobody understands."""
    schema: dict[str, Any] = planfile.json_schema(wiring.parts().steps)
    silent = [
        f"{name}.{field}"
        for name, part in schema["$defs"].items()
        for field, content in part["properties"].items()
        if "description" not in content and "$ref" not in content and "const" not in content and "allOf" not in content
    ]
    assert silent == []
