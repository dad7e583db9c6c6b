"""The GitHub Action and the pre-commit hook of this repository do what they say, step by step as they are written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
(HOOK,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
OLD = "CREATE INDEX old ON orders (day);\n"
NEW = "SET lock_timeout = '3s';\nCREATE INDEX new ON orders (day);\n"
COMMITTER = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"]


def git(folder: Path, *words: str) -> str:
    """Run git in a folder."""
    done = subprocess.run(["git", *COMMITTER, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def install(folder: Path, *wanted: str) -> Path:
    """Make an environment with what pip finds; return its programs' folder."""
    venv.create(folder, with_pip=True)
    words = [str(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", *wanted]
    subprocess.run(words, check=True, capture_output=True)
    return folder / "bin"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Give what a workflow has of a pull request: one commit, with a remote that knows the base."""
    origin = tmp_path / "origin"
    (origin / "migrations").mkdir(parents=True)
    git(origin, "init", "--quiet", "--initial-branch=main")
    git(origin, "config", "uploadpack.allowAnySHA1InWant", "true")
    for name, text in {"1_old.sql": OLD, "2_new.sql": NEW}.items():
        (origin / "migrations" / name).write_text(text)
        git(origin, "add", ".")
        git(origin, "commit", "--quiet", "-m", name)
    here = tmp_path / "here"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{origin}", str(here))
    return here


def act(
    checkout: Path, first: int, event: dict[str, str] | None = None, **given: str
) -> subprocess.CompletedProcess[str]:
    """Run the Action's steps from one on, as a runner does; return the last one that ran."""
    temporary = checkout.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("SEGUE_", "PG", "GITHUB_"))}
    place = {"RUNNER_TEMP": str(temporary), "GITHUB_ACTION_PATH": str(ROOT)}
    place["GITHUB_STEP_SUMMARY"] = str(temporary / "summary.md")

    def meant(words: str, inputs: dict[str, str]) -> str:
        known = {f"inputs.{name}": value for name, value in inputs.items()} | (event or {})
        return re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda found: known.get(found[1], ""), words)

    inputs = {name: meant(item["default"], {}) for name, item in ACTION["inputs"].items()}
    inputs |= {name.replace("_", "-"): value for name, value in given.items()}
    for step in ACTION["runs"]["steps"][first:]:
        assert step["shell"] == "bash"
        variables = {name: meant(value, inputs) for name, value in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=checkout,
            env={**mine, **place, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            break
    return done


@pytest.fixture
def installed(checkout: Path) -> Path:
    """Put this Segue where the Action's first step would have installed it."""
    program = checkout.parent / "temporary/segue/bin/segue"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT / "src"}" exec "{sys.executable}" -m segue "$@"\n')
    program.chmod(0o755)
    return program


def test_action_annotates_what_a_pull_request_brings(checkout: Path, installed: Path) -> None:
    base = git(checkout.parent / "origin", "rev-parse", "main~1")
    done = act(checkout, 0, {"github.event.pull_request.base.sha": base})
    assert done.returncode == 1, done.stderr
    assert [line.partition(",")[0] for line in done.stdout.splitlines()] == ["::error file=migrations/2_new.sql"]
    assert "migrations/2_new.sql:2" in (checkout.parent / "temporary/summary.md").read_text()


def test_action_takes_paths_options_and_a_file_to_write(checkout: Path, installed: Path) -> None:
    given = {"paths": "migrations/1_old.sql\nmigrations/2_new.sql\n", "arguments": "--ignore=lock-without-timeout\n"}
    done = act(checkout, 0, **given, format="gcc", output="found.txt", fail_on="never")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert [line.partition(":")[0] for line in (checkout / "found.txt").read_text().splitlines()] == [
        "migrations/1_old.sql",
        "migrations/2_new.sql",
    ]


def test_action_knows_a_base_by_its_branch(checkout: Path, installed: Path) -> None:
    git(checkout.parent / "origin", "branch", "stable", "main~1")
    assert "1_old" not in act(checkout, 0, git_base="stable").stdout


def test_action_never_lets_an_input_be_part_of_a_script() -> None:
    assert not any("${{" in step["run"] for step in ACTION["runs"]["steps"])


@pytest.mark.slow
def test_action_installs_segue_from_its_own_checkout(checkout: Path) -> None:
    done = act(checkout, 0, fail_on="never")
    assert done.returncode == 0, done.stderr
    assert [line.partition(",")[0] for line in done.stdout.splitlines()] == [
        "::error file=migrations/1_old.sql",
        "::error file=migrations/2_new.sql",
    ]


def test_hook_finds_in_the_files_that_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "1_new.sql").write_text(NEW)
    program, *words = HOOK["entry"].split()
    assert (program, HOOK["language"]) == ("segue", "python")
    done = subprocess.run(
        [sys.executable, "-m", program, *words, "1_new.sql"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "1_new.sql:2:1" in done.stdout
    names = ("a.sql", "a.up.sql", "a.down.sql", "a_down.sql", "a.sql.txt")
    assert [re.search(HOOK["files"], name) and not re.search(HOOK["exclude"], name) for name in names] == [
        True,
        True,
        False,
        False,
        None,
    ]


@pytest.mark.slow
def test_hook_runs_under_pre_commit(tmp_path: Path) -> None:
    repository = tmp_path / "segue"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, repository, ignore=ignored)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for folder in (repository, scratch):
        git(folder, "init", "--quiet")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--allow-empty", "-m", "what there is")
    (scratch / "1_new.sql").write_text(NEW)
    (scratch / "1_new.down.sql").write_text("DROP INDEX new;\n")
    hook = {"repo": str(repository), "rev": git(repository, "rev-parse", "HEAD"), "hooks": [{"id": HOOK["id"]}]}
    (scratch / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [hook]}))
    git(scratch, "add", ".")
    programs = install(tmp_path / "tools", "pre-commit")
    environment = {**os.environ, "PRE_COMMIT_HOME": str(tmp_path / "cache")}
    environment.pop("PYTHONPATH", None)

    def commit() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *COMMITTER, "commit", "-m", "an index"],
            cwd=scratch,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    subprocess.run([programs / "pre-commit", "install"], cwd=scratch, env=environment, check=True, capture_output=True)
    refused = commit()
    assert refused.returncode == 1
    assert "1_new.sql:2:1: error create-index-not-concurrently" in refused.stdout + refused.stderr
    assert "down.sql" not in refused.stdout + refused.stderr
    (scratch / "1_new.sql").write_text(NEW.replace("INDEX", "INDEX CONCURRENTLY").partition("\n")[2])
    git(scratch, "add", ".")
    accepted = commit()
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
