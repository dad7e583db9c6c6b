"""A process that forks a copy of itself for every command line it is given, and can kill it at a journal point.

Reads a JSON list a line: [arguments, point or null, occurrence]. Answers a JSON object a line: exit status (negative
for a signal), and the points that were passed, in order. What a copy had to import, later ones find there: they
start in a fraction of the time.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from sqlalchemy.orm import configure_mappers

import segue.cli
import segue.cli.run
import segue.databases.postgresql.target
import segue.planning.planfile
import segue.services.executions
import segue.store.tables
from segue import wiring
from segue.engine import journal

wiring.parts()
configure_mappers()


def child(arguments: list[str], wanted: str | None, occurrence: int, files: Path) -> None:
    trail, output, imported = (files.with_suffix(suffix) for suffix in (".trail", ".out", ".imported"))
    known = set(sys.modules)
    lock = threading.Lock()
    passed: dict[str, int] = {}
    with trail.open("a", buffering=1) as file:

        def point(name: str) -> None:
            with lock:
                passed[name] = passed.get(name, 0) + 1
                file.write(name + "\n")
                if name == wanted and passed[name] == occurrence:
                    os.kill(os.getpid(), signal.SIGKILL)

        journal.point = point
        stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        code = segue.cli.perform(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        imported.write_text("\n".join(name for name in sys.modules if name not in known))
        os._exit(code)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="segue-crash-") as folder:
        serve(Path(folder))


def serve(folder: Path) -> None:
    for number, line in enumerate(sys.stdin):
        arguments, wanted, occurrence = json.loads(line)
        files = folder / str(number)
        trail, output = files.with_suffix(".trail"), files.with_suffix(".out")
        trail.touch()
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            try:
                child(arguments, wanted, occurrence, files)
            finally:
                os._exit(99)  # whatever went wrong: the folder is the parent's to remove
        _, status = os.waitpid(pid, 0)
        answer = {
            "status": os.waitstatus_to_exitcode(status),
            "points": trail.read_text().split("\n")[:-1],
            "output": output.read_text() if output.exists() else "",
        }
        print(json.dumps(answer), flush=True)
        imported = files.with_suffix(".imported")
        for name in imported.read_text().splitlines() if imported.exists() else ():
            with suppress(ImportError):  # what only stands there under this name
                importlib.import_module(name)


main()
