"""A process that forks a copy of itself for every command line it is given, and can kill it at a journal point.

Reads a JSON list a line: [arguments, point or null, occurrence]. Answers a JSON object a line: exit status (negative
for a signal), and the points that were passed, in order.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

import segue.cli
import segue.cli.run
import segue.databases.postgresql.target
import segue.planning.planfile
import segue.services.executions
import segue.store.tables
from segue import wiring
from segue.engine import journal

wiring.parts()


def child(arguments: list[str], wanted: str | None, occurrence: int, trail: Path, output: Path) -> None:
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
        os._exit(code)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="segue-crash-") as folder:
        serve(Path(folder))


def serve(folder: Path) -> None:
    for number, line in enumerate(sys.stdin):
        arguments, wanted, occurrence = json.loads(line)
        trail, output = folder / f"{number}.trail", folder / f"{number}.out"
        trail.touch()
        pid = os.fork()
        if pid == 0:
            try:
                child(arguments, wanted, occurrence, trail, output)
            finally:
                os._exit(99)  # whatever went wrong: the folder is the parent's to remove
        _, status = os.waitpid(pid, 0)
        answer = {
            "status": os.waitstatus_to_exitcode(status),
            "points": trail.read_text().split("\n")[:-1],
            "output": output.read_text() if output.exists() else "",
        }
        print(json.dumps(answer), flush=True)


main()
