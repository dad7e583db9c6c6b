"""The files of a script are a part of the plan: read with it, hashed with it, and laid out again elsewhere."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from segue import wiring
from segue.errors import InvalidInput
from segue.model.scripts import Script
from segue.planning import planfile, scriptfiles
from segue.planning.planfile import InvalidPlan, Plan

HEAD = "plan: p\nversion: 1.0.0\ndescription: d\nsteps:\n  - name: s\n    kind: script\n    type: data-migration\n"
BACK = "    irreversible: a test\n"

SCRIPT = "import os\n\ndef up(connection):\n    pass\n\nasync def later(connection):\n    pass\n\nother = up\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder for plans, with scripts in it and beside it."""
    plans = tmp_path / "plans"
    (plans / "lib").mkdir(parents=True)
    (plans / "lib" / "script.py").write_text(SCRIPT)
    (plans / "run").write_text("#!/bin/sh\n")
    (plans / "run").chmod(0o755)
    (plans / "data.csv").write_text("a,b\n")
    (tmp_path / "up.mjs").write_text("// é\n")
    return plans


def read(folder: Path | None, step: str, tail: str = BACK) -> Plan:
    parts = wiring.parts()
    text = HEAD + step + "\n" + tail
    database = parts.databases["postgresql"]
    return planfile.read(text, source="p.yaml", kinds=parts.steps, database=database, folder=folder)


def problem(folder: Path | None, step: str, tail: str = BACK) -> str:
    with pytest.raises(InvalidPlan) as caught:
        read(folder, step, tail)
    (found,) = caught.value.problems
    return f"{found.line}:{found.column}: {found.message}"


def contents(plan: Plan) -> dict[str, str]:
    step: Any = plan.steps[0]
    return dict(step.contents)


def test_files_of_every_form_are_read(folder: Path) -> None:
    assert contents(read(folder, "    python: lib/script.py:up\n    files: [./data.csv]")) == {
        "lib/script.py": SCRIPT,
        "data.csv": "a,b\n",
    }
    assert contents(read(folder, "    command: [./run, x]")) == {"run": "#!/bin/sh\n"}
    assert contents(read(folder, "    command: [/bin/sh, x]")) == {}
    assert contents(read(folder, "    prisma: ../up.mjs")) == {"../up.mjs": "// é\n"}


def test_text_of_a_script_is_in_the_hash_and_needs_no_file_any_more(folder: Path) -> None:
    step = "    python: lib/script.py:up"
    plan = read(folder, step)
    (folder / "lib" / "script.py").write_text(SCRIPT + "# changed\n")
    changed = read(folder, step)
    assert planfile.digest(plan) != planfile.digest(changed)
    again = planfile.from_document(planfile.document(plan), wiring.parts().steps)
    assert again == plan
    assert planfile.digest(again) == planfile.digest(plan)


def test_kind_of_module_goes_along(folder: Path) -> None:
    (folder.parent / "package.json").write_text('{"type": "module", "dependencies": {}}')
    (folder / "look.js").write_text("import 'pg'\n")
    plan = read(folder, "    prisma: look.js")
    assert contents(plan) == {"look.js": "import 'pg'\n", "package.json": '{"type": "module"}\n'}
    (folder / "package.json").write_text("{}")
    assert contents(read(folder, "    prisma: look.js")) == {"look.js": "import 'pg'\n"}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("    python: lib/script.py:down", '8:13: step "s": `python`: "lib/script.py" has no function "down"'),
        (
            "    python: lib/script.py:later",
            '8:13: step "s": `python`: "later" in "lib/script.py" is an async function',
        ),
        (
            "    python: lib/script.py",
            '8:13: step "s": "python": "lib/script.py" names no function; write path/file.py',
        ),
        ("    python: lib/none.py:up", '8:13: step "s": `python`: there is no file "'),
        ("    python: data.csv:up", '8:13: step "s": "python": "data.csv:up" names no function'),
        ("    python: /lib/script.py:up", '8:13: step "s": `python`: "/lib/script.py" must be a path relative to the'),
        ("    python: lib/broken.py:up", '8:13: step "s": `python`: "lib/broken.py" line 2 is not Python'),
        (
            "    prisma: lib/script.py",
            '8:13: step "s": "prisma": "lib/script.py" is no script for Node; its name ends in',
        ),
        ("    command: []", '8:14: step "s": "command": '),
        ("    command: run", '8:14: step "s": "command" must be a list, not "run"'),
        ("    command: [./data.csv]", '8:14: step "s": `command`: "{folder}/data.csv" is not executable (chmod +x'),
        (
            "    command: [./bare]",
            '8:14: step "s": `command`: "{folder}/bare" does not say in its first line what runs',
        ),
        ("    command: [./binary]", '8:14: step "s": `command`: "{folder}/binary" is not a text in UTF-8'),
        ("    command: [cat, data.csv]", '8:14: step "s": `command`: "data.csv" is a file beside the plan, which only'),
        ("    command: [x]\n    files: [lib]", '9:12: step "s": `files`: "{folder}/lib" is a folder; name its files'),
        ("    command: [x]\n    files: [large]", '9:12: step "s": `files`: the script\'s files have 300,000 bytes'),
        ("    command: [x]\n    transaction: true", '5:5: step "s": transaction goes with python only'),
        ("    command: [x]\n    retries: 2", '9:14: step "s": `retries`: what a failed script has done cannot be told'),
        ("    command: [x]\n    env: {PGHOST: x}", '9:10: step "s": "env": "PGHOST" is set by Segue'),
        ("    command: [x]\n    env: {SEGUE_KEY: x}", '9:10: step "s": "env": "SEGUE_KEY" is set by Segue'),
        ("    command: [x]\n    env: {A-B: x}", '9:10: step "s": "env": "A-B" is no name of a variable'),
        ("    command: [x]\n    python: lib/script.py:up", '5:5: step "s": a script is exactly one of python, command'),
        (
            "    command: [x]\n    done_when: {query: DELETE FROM t, scalar: 1}",
            '9:24: step "s": `done_when`: `query` must be one SELECT that only reads',
        ),
        (
            "    command: [x]\n    done_when: {query: SELECT FROM FROM t, scalar: 1}",
            '9:36: step "s": syntax error at or near "FROM"',
        ),
    ],
)
def test_problem_is_named_with_its_place(folder: Path, step: str, expected: str) -> None:
    (folder / "lib" / "broken.py").write_text("def up(connection):\npass\n")
    for name, raw in (("bare", b"echo\n"), ("binary", b"\x7fELF\x00"), ("large", b"x" * 300_000)):
        (folder / name).write_bytes(raw)
        (folder / name).chmod(0o755)
    found = problem(folder, step)
    assert found.startswith(expected.replace("{folder}", str(folder))), found


def test_reverse_has_its_own_files_and_problems(folder: Path) -> None:
    plan = read(folder, "    command: [x]", "    reverse: {python: lib/script.py:other}\n")
    step: Any = plan.steps[0]
    assert (contents(plan), step.reverse.contents) == ({}, {"lib/script.py": SCRIPT})
    found = problem(folder, "    command: [x]", "    reverse:\n      python: lib/script.py:down\n")
    assert found.startswith('10:15: step "s": `reverse`: `python`: "lib/script.py" has no function "down"')
    assert problem(folder, "    command: [x]", "").startswith('5:11: step "s": say how the step is undone')


def test_plan_from_a_pipe_brings_its_files_along() -> None:
    found = problem(None, "    python: lib/script.py:up")
    assert found.startswith('8:13: step "s": `python`: the content of "lib/script.py" is not there')
    step = '    python: lib/script.py:up\n    contents: {"lib/script.py": "def up(connection): ..."}'
    assert contents(read(None, step)) == {"lib/script.py": "def up(connection): ..."}


def test_files_are_laid_out_as_they_stood_and_never_outside(folder: Path, tmp_path: Path) -> None:
    plan = read(folder, "    prisma: ../up.mjs\n    files: [lib/script.py, run]")
    root = tmp_path / "private"
    step: Any = plan.steps[0]
    here = scriptfiles.lay_out(step, root)
    assert (here / ".." / "up.mjs").read_text() == "// é\n"
    assert (here / "lib" / "script.py").read_text() == SCRIPT
    assert (here / "run").stat().st_mode & 0o777 == 0o700
    assert (here / "lib" / "script.py").stat().st_mode & 0o777 == 0o600
    written = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert written == {"up.mjs", ".plan/lib/script.py", ".plan/run"}


@pytest.mark.parametrize("name", ["{outside}", "~/x", " ", ".", "a/..", ".."])
def test_contents_with_a_path_that_leads_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    name = name.replace("{outside}", str(tmp_path / "outside"))
    found = problem(None, f'    command: ["true"]\n    contents: {{"{name}": text}}')
    assert found.startswith(f'9:15: step "s": `contents`: "{name}" must be a path relative to the plan file')


@pytest.mark.parametrize("name", ["{outside}", "a/../../../b", "../../x"])
def test_nothing_is_written_outside_of_the_private_folder(tmp_path: Path, name: str) -> None:
    # Past the reader, which refuses some of these.
    script = Script(command=["true"], contents={name.replace("{outside}", str(tmp_path / "outside")): "text"})
    root = tmp_path / "deep" / "private"
    with suppress(InvalidInput):
        scriptfiles.lay_out(script, root)
    assert all(path.is_relative_to(root) for path in tmp_path.rglob("*") if path.is_file())


def test_file_without_an_end_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        with pytest.raises(InvalidPlan, match="no ordinary file"):
            read(folder, f"    command: [/bin/true]\n    files: [{name}]")
