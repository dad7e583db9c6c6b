"""Starts a user's program and outlives it by a moment: nothing of it goes on when whoever wanted it is gone.

Run as a file, by its path, with the standard library alone: python launcher.py LIFELINE SILENCE FOLDER COMMAND…

LIFELINE is a file descriptor through which the driver writes a byte a second; a `K` says that everything is to end at
once. When it closes, or nothing comes for SILENCE seconds, the driver was killed or stopped and somebody else may take
its place: everything that the program started is ended, and FOLDER, which the driver would have removed, is removed.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

# What a program gets to end by itself once the driver is gone; its successor comes seconds later.
GRACE = 2.0

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main(lifeline: int, silence: float, folder: str, command: list[str]) -> int:
    """Run a command to its end; return its exit code, above 128 for a signal."""
    os.set_inheritable(lifeline, False)
    # Whatever the program leaves behind becomes a child of this process, also what has left its group.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    inbox, outbox = os.pipe()
    os.set_blocking(outbox, False)
    signal.set_wakeup_fd(outbox, warn_on_full_buffer=False)
    # Handlers, since what is ignored would be ignored by the program too: the whole group is told to end, this
    # process last.
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    program = _start(command)
    heard = _now()
    while True:
        ready, _, _ = select.select([lifeline, inbox], [], [], 1.0)
        if _now() - heard > silence + GRACE:
            # The whole machine slept, or this process was stopped too: whatever stands in the lifeline by now, somebody
            # else works on the target, and nothing may be written there any more.
            _abandoned(program, folder, grace=0)
        if inbox in ready:
            os.read(inbox, 512)
        status = _reap(program)
        if status is not None:
            break
        if lifeline in ready:
            said = os.read(lifeline, 512)
            if not said:
                _abandoned(program, folder)
            if b"K" in said:
                _sweep()
                return 128 + signal.SIGKILL
            heard = _now()
        if _now() - heard > silence:
            _abandoned(program, folder)
    _sweep()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _start(command: list[str]) -> int:
    launcher = os.getpid()
    program = os.fork()
    if program:
        return program
    try:
        # Should this launcher be killed, the program goes with it.
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        os.execvp(command[0], command)  # noqa: S606 - without a shell, as it should be
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(126)


def _reap(program: int) -> int | None:
    """Take the end of every child that has ended; return the program's status if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == program:
            found = status


def _now() -> float:
    """Return seconds that also pass while the machine sleeps, where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _abandoned(program: int, folder: str, grace: float = GRACE) -> None:
    """End everything, gently first if there is time for that, and this process with it."""
    if grace:
        os.killpg(0, signal.SIGTERM)
    until = time.monotonic() + grace
    while _reap(program) is None and time.monotonic() < until:
        time.sleep(0.05)
    _sweep()
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def _sweep() -> None:
    """End what is left of the program's descendants; where the system does not list them, the group's end must do."""
    for _ in range(100):
        try:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        except OSError:
            return
        if not children:
            return
        for pid in children:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        _reap(0)
        time.sleep(0.01)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]))
