"""Finds what runs a user's script on this machine: a program, or Node with the modules of a project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

from segue.errors import StepFailed
from segue.model.scripts import TYPESCRIPT


def command(step: str, words: list[str], here: Path, search: str | None) -> list[str]:
    """Return a command with its program's place: beside the plan's files, as it is given, or in the PATH `search`."""
    first, *rest = words
    if "/" in first:
        program = str(here / first) if not first.startswith("/") else first
        if not os.access(program, os.X_OK) or Path(program).is_dir():
            _missing(step, f'there is no program "{first}" on this machine')
        return [os.path.normpath(program), *rest]
    found = shutil.which(first, path=search)
    if found is None:
        _missing(step, f'there is no program "{first}" in the PATH of this machine')
    return [found, *rest]


def node(step: str, file: Path, here: Path, project: Path) -> list[str]:
    """Return how to run a script by Node, with the modules of the project that this process runs in."""
    modules = next((folder for folder in (project, *project.parents) if (folder / "node_modules").is_dir()), None)
    # Node looks for modules from the script's own folder upwards.
    root = here if file.is_relative_to(here) else file.parent
    if modules is not None and not (root / "node_modules").exists():
        (root / "node_modules").symlink_to((modules / "node_modules").resolve())
    program = shutil.which("node")
    if program is None:
        _missing(step, 'there is no "node" in the PATH of this machine')
    if file.suffix not in TYPESCRIPT:
        return [program, str(file)]
    own = modules / "node_modules" / ".bin" / "tsx" if modules is not None else None
    tsx = str(own) if own is not None and os.access(own, os.X_OK) else shutil.which("tsx")
    if tsx is not None:
        return [tsx, str(file)]
    said = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=False, timeout=30
    ).stdout.strip()
    version = tuple(int(part) for part in re.findall(r"\d+", said)[:2])
    if version >= (23, 6) or (22, 18) <= version < (23,):
        return [program, str(file)]
    if version < (22, 6):
        _missing(
            step,
            f'"{file.name}" is TypeScript, which Node {said} cannot run, and there is no "tsx" in "{project}" or the '
            "PATH of this machine",
            hint="npm install tsx in that project, or use Node from 22.18 on, or write the script in JavaScript",
        )
    return [program, "--experimental-strip-types", str(file)]


def _missing(
    step: str, what: str, hint: str = "nothing was begun; install it, or run the step where it is"
) -> NoReturn:
    raise StepFailed(f'step "{step}": {what}', hint=hint)
