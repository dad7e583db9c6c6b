"""Rules of this repository that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from segue import errors

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def tracked() -> list[Path]:
    """Return the files under version control, and new ones that are not ignored."""
    listed = subprocess.run(
        # The tree may belong to somebody else, as in a container; only its list of files is read.
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("this is no git repository")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def status_assignments(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that set an attribute or a column called status, other than for a new row."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets):
                found = [part for target in targets for part in ast.walk(target)]
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target, value=ast.expr()):
                found = list(ast.walk(target))
            case ast.Call(func=ast.Name(id="setattr"), args=[_, ast.Constant(value="status"), *_]):
                yield node.lineno
                continue
            case ast.Call(func=ast.Attribute(attr="values"), keywords=keywords):
                if any(keyword.arg == "status" for keyword in keywords):
                    yield node.lineno
                continue
            case _:
                continue
        yield from (
            part.lineno
            for part in found
            if isinstance(part, ast.Attribute) and part.attr == "status" and isinstance(part.ctx, ast.Store)
        )


def test_only_transitions_set_a_status() -> None:
    allowed = ROOT / "src/segue/store/transitions.py"
    shop = ROOT / "src/segue/demo"  # its orders have a status of their own, which is no record of Segue's
    offenders = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        if path != allowed and shop not in path.parents
        for line in status_assignments(ast.parse(path.read_text()))
    ]
    assert offenders == []


@pytest.mark.parametrize(
    "code",
    [
        "row.status = 1",
        "a, row.status = 1, 2",
        'setattr(row, "status", 1)',
        "update(t).values(status=1)",
        "r.status += 1",
    ],
)
def test_the_check_above_sees_every_way_to_set_a_status(code: str) -> None:
    assert list(status_assignments(ast.parse(code))) == [1]


def test_the_check_above_lets_reading_and_new_rows_pass() -> None:
    assert list(status_assignments(ast.parse("if row.status == 1: x = Row(status=1).status"))) == []


def test_architecture_names_paths_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = {
        word for word in re.findall(r"`([\w./-]+)`", text) if "/" in word or word.endswith((".py", ".md", ".toml"))
    }
    missing = [word for word in sorted(named) if not any((base / word).exists() for base in (ROOT, ROOT / "src/segue"))]
    assert named
    assert missing == []


def test_no_file_names_a_path_of_one_machine() -> None:
    # Put together here so that this file does not name them itself.
    words = ["/" + folder + "/" for folder in ("work", "root")] + [f"{ROOT}/"]
    pattern = re.compile("|".join([*map(re.escape, words), "/" + r"(?:home|Users)/(?!you\b|user\b)\w+"]))
    offenders = []
    for path in tracked():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        # An address on the web may have such a part; a path of a machine stands alone.
        offenders += [
            f"{path.relative_to(ROOT)}:{number}"
            for number, line in enumerate(lines, 1)
            for found in pattern.finditer(line)
            if not re.search(r"[\w.~}-]$", line[: found.start()])
        ]
    assert offenders == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "util", "helpers", "common", "base", "manager", "runner", "misc"}
    assert [path for path in SOURCES if path.stem in empty or path.parent.name in empty] == []


def test_every_error_has_a_code_of_its_own_and_a_sentence() -> None:
    def below(kind: type[errors.SegueError]) -> Iterator[type[errors.SegueError]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    ours = [kind for kind in below(errors.SegueError) if kind.__module__ == errors.__name__]
    codes = [kind.code for kind in ours]
    assert len(set(codes)) == len(codes)
    assert [kind for kind in ours if not kind.__doc__] == []


def test_the_lock_has_what_the_project_wants() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(word for extra in project["optional-dependencies"].values() for word in extra),
    ]
    pins = [
        line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")
    ]
    locked = {canonicalize_name(name): version for name, version in pins}
    for word in wanted:
        requirement = Requirement(word)
        assert requirement.specifier.contains(locked.get(canonicalize_name(requirement.name), "0")), word
