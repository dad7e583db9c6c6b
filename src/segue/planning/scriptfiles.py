"""The files of a script: read together with the plan that names them, and laid out again where the script runs."""

from __future__ import annotations

import ast
import json
import os
import posixpath
import shlex
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from segue.errors import InvalidInput
from segue.model.scripts import Script, path

# Bytes that the files of a script may have together: they are a part of the plan.
MAX_BYTES = 256_000


def read(script: Script, folder: Path | None, where: str) -> dict[str, str]:
    """Return the text of every file that a script names: as given, or as it is in the plan's folder."""
    main = script.main
    for name in script.contents:
        _refuse_elsewhere(name, f"{where}`contents`: ")
    found = {path(name): text for name, text in script.contents.items()}
    field = "python" if script.python is not None else "prisma" if script.prisma is not None else "command"
    for name, named_by in [*([(main, field)] if main is not None else []), *((file, "files") for file in script.files)]:
        if path(name) not in found:
            found[path(name)] = _text(name, folder, f"{where}`{named_by}`: ", runs=named_by == "command")
    if folder is not None and main is not None and script.prisma is not None:
        found |= _module_type(folder / main, posixpath.dirname(path(main)), found)
    if folder is not None:
        _refuse_unnamed(script, folder, found, where)
    if script.python is not None and main is not None:
        _find_function(found[path(main)], script.python, f"{where}`python`: ")
    size = sum(len(text.encode()) for text in found.values())
    if size > MAX_BYTES:
        raise InvalidInput(
            f"{where}`{'files' if script.files else field}`: the script's files have {size:,} bytes together, "
            f"and a plan holds at most {MAX_BYTES:,} of a script",
            hint="install what is large on the machines that run it, and call it with `command`",
        )
    return found


def _text(name: str, folder: Path | None, where: str, *, runs: bool) -> str:
    _refuse_elsewhere(name, where)
    if folder is None:
        raise InvalidInput(
            f'{where}the content of "{name}" is not there',
            hint="a plan that names files is read from a file beside them, or brings their `contents` along",
        )
    file = folder / name
    try:
        # A pipe or a device has no end.
        if not stat.S_ISREG(file.stat().st_mode) and not file.is_dir():
            raise InvalidInput(f'{where}"{file}" is no ordinary file')
        with file.open("rb") as opened:
            raw = opened.read(100 * MAX_BYTES)
    except FileNotFoundError:
        raise InvalidInput(f'{where}there is no file "{file}"') from None
    except IsADirectoryError:
        raise InvalidInput(f'{where}"{file}" is a folder; name its files') from None
    except OSError as error:
        raise InvalidInput(f'{where}"{file}" cannot be read: {error.strerror}') from None
    if runs and not os.access(file, os.X_OK):
        raise InvalidInput(f'{where}"{file}" is not executable', hint=f"chmod +x {shlex.quote(str(file))}")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InvalidInput(
            f'{where}"{file}" is not a text in UTF-8',
            hint="what is no text is installed on the machines that run the plan, and called by its absolute path",
        )
    if runs and not text.startswith("#!"):
        raise InvalidInput(
            f'{where}"{file}" does not say in its first line what runs it', hint="begin it with `#!/bin/sh` or the like"
        )
    return text


def _refuse_elsewhere(name: str, where: str) -> None:
    """Refuse what is no path relative to the plan: it would be written there on whichever machine runs the script."""
    if not name.strip() or name.startswith(("/", "~")) or "\0" in name or path(name) in (".", ".."):
        raise InvalidInput(f'{where}"{name}" must be a path relative to the plan file')


def _refuse_unnamed(script: Script, folder: Path, found: Mapping[str, str], where: str) -> None:
    """Refuse an argument that is a file beside the plan, and would not be there where the command runs."""
    for word in (script.command or [])[1:]:
        if "\0" in word or not word or word.startswith("/") or path(word) in found or script.cwd is not None:
            continue
        with suppress(OSError):
            if (folder / word).is_file():
                raise InvalidInput(
                    f'{where}`command`: "{word}" is a file beside the plan, which only goes along when `files` names it'
                )


def _find_function(text: str, python: str, where: str) -> None:
    """Look for the function in the file's text; nothing of it is run."""
    file, _, name = python.rpartition(":")
    try:
        module = ast.parse(text)
    except SyntaxError as error:
        raise InvalidInput(f'{where}"{file}" line {error.lineno} is not Python: {error.msg}') from None
    for node in ast.walk(module):
        if isinstance(node, ast.AsyncFunctionDef) and node.name == name and node in module.body:
            raise InvalidInput(f'{where}"{name}" in "{file}" is an async function', hint="write it with `def`")
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
            return
        if isinstance(node, ast.alias) and (node.asname or node.name) in (name, "*"):
            return
    raise InvalidInput(f'{where}"{file}" has no function "{name}"')


def _module_type(script: Path, beside: str, found: Mapping[str, str]) -> dict[str, str]:
    """Return the `package.json` that says what kind of module a script is, for Node reads it from the folders above."""
    place = posixpath.join(beside, "package.json") if beside else "package.json"
    if place in found:
        return {}
    for folder in script.resolve().parents:
        file = folder / "package.json"
        if not file.is_file():
            continue
        with suppress(OSError, ValueError):
            content = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(content, dict) and content.get("type") == "module":
                return {place: '{"type": "module"}\n'}
        return {}
    return {}


def lay_out(script: Script, root: Path) -> Path:
    """Write a script's files below `root`; return the folder that stands for the plan's."""
    # As deep as the files climb out of it: `../lib/x.py` must not lead out of the root.
    climb = max((name.split("/").count("..") for name in script.contents), default=0)
    root = Path(os.path.normpath(root))
    here = root.joinpath(*[".plan"] * climb)
    files = {Path(os.path.normpath(here / name)): text for name, text in script.contents.items()}
    outside = [file for file in files if root not in file.parents]
    if outside:
        raise InvalidInput(f'a script\'s file would be written to "{outside[0]}", outside of its own folder')
    here.mkdir(parents=True, mode=0o700)
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.write_bytes(text.encode())
        file.chmod(0o700 if text.startswith("#!") else 0o600)
    return here
