"""Runs a benchmark by its name and prints what it measured."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pkgutil
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import benchmarks
from benchmarks._rounds import Benchmark, measure
from segue.errors import ExitCode, InternalError, SegueError, UsageError
from segue.settings import prepare_folder


def discover() -> dict[str, Benchmark]:
    """Return every benchmark by its name, found by looking at this folder."""
    found: dict[str, Benchmark] = {}
    for module in sorted(pkgutil.iter_modules(benchmarks.__path__), key=lambda module: module.name):
        if module.name.startswith("_"):
            continue
        benchmark = getattr(importlib.import_module(f"benchmarks.{module.name}"), "BENCHMARK", None)
        if benchmark is None:
            raise InternalError(f'"benchmarks.{module.name}" does not export BENCHMARK')
        found[module.name.replace("_", "-")] = benchmark
    return found


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint="see `python -m benchmarks --help`")


def main(words: list[str] | None = None) -> int:
    """Run the command and return its exit code, one of Segue's."""
    words = sys.argv[1:] if words is None else words
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(words)
    except SegueError as error:
        if "--json" in words:
            print(json.dumps({"segue": 1, "ok": False, "error": error.as_json()}))
        else:
            for line in (f"error: {error.message}", *error.details, *([f"hint: {error.hint}"] if error.hint else [])):
                print(line, file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("stopped, and everything that was started", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(words: list[str]) -> int:
    known = discover()
    parser = _Parser(
        prog="python -m benchmarks",
        description="Time Segue beside what people do without it, on servers of the benchmark's own.",
        epilog="example: python -m benchmarks backfill --rounds 3",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help=f"one of: {', '.join(known)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is timed (default: 5)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="size of the data (default: 1)")
    given = parser.parse_args(words)
    given.name = given.name and given.name.replace("_", "-")
    if given.name not in known:
        what = f'there is no benchmark "{given.name}"' if given.name else "no benchmark is named"
        raise UsageError(what, hint=f"the benchmarks are: {', '.join(known)}")
    if given.rounds < 1 or not 0 < given.scale <= 1000:
        raise UsageError("--rounds must be at least 1, and --scale above 0 and at most 1000")
    with _folder() as folder:
        result = measure(known[given.name], given.name, folder, rounds=given.rounds, scale=given.scale, say=_say)
    print(json.dumps(result.as_json(), indent=2) if given.json else result.as_text())
    return int(ExitCode.DONE)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Give a private folder for servers and files; nothing of it is left, whatever happens."""
    # A short path: the sockets of the servers are in it.
    folder = prepare_folder(Path(tempfile.gettempdir()) / f"segue-bench-{os.getpid()}-{secrets.token_hex(3)}")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
