"""Runs a user's program for as long as its driver wants it: its output read, its end seen, nothing of it left."""

from __future__ import annotations

import fcntl
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from segue import clock
from segue.errors import FenceLost
from segue.model.urls import redact

# A driver that was stopped loses its lease after ten seconds: its program must be gone by then.
SILENCE = 7.0
# What a program gets to end by itself when it is told to.
GRACE = 5.0
# And what its launcher gets to find everything that it started.
KILLING = 2.0
# How often the driver is asked whether to go on, and how often it says what the program printed.
TICK = 0.2
SAY_EVERY = 0.5

# What is kept of the output: the last lines in the record of the step's run, and a part of all of them in the log.
KEPT_LINES = 50
LONGEST_LINE = 2000
SAID_AT_ONCE = 10
SAID_AT_ALL = 1000

_LONGEST_READ = 65536
_PREFIX = "segue-script-"
# Seconds in which a new folder is left alone whoever holds it.
FRESH = 60.0
# Colours and the like, and what else would move the cursor of whoever reads the log.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f]")

Say = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Program:
    """What to start: words without a shell, a folder, the whole environment; `secrets` are never shown."""

    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str]
    secrets: Sequence[str] = ()


class Output:
    """What a program prints, as lines without secrets: a part is said as it comes, and the last of it is kept."""

    def __init__(self, secrets: Sequence[str], say: Say) -> None:
        self.last: deque[str] = deque(maxlen=KEPT_LINES)
        self.lines = 0
        self._secrets = sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True)
        self._say = say
        self._begun: dict[str, bytearray] = {}
        self._cut: set[str] = set()
        self._unsaid: list[tuple[str, str]] = []
        self._skipped = 0
        self._said = 0

    def take(self, stream: str, data: bytes) -> None:
        """Take a piece of a stream; an empty one ends its last line."""
        begun = self._begun.setdefault(stream, bytearray())
        begun += data if data else b"\n" if begun else b""
        *whole, rest = bytes(begun).split(b"\n")
        for line in whole:
            if stream in self._cut:
                self._cut.discard(stream)
            else:
                self._line(stream, line)
        if len(rest) > _LONGEST_READ:
            # A line without an end: its beginning is kept, which is all that would be shown of it.
            if stream not in self._cut:
                self._line(stream, rest)
                self._cut.add(stream)
            rest = b""
        begun[:] = rest

    def flush(self) -> None:
        """Say what has come since the last time, or the end of it when it is much."""
        if self._said >= SAID_AT_ALL:
            self._skipped += len(self._unsaid)
            self._unsaid.clear()
            return
        much = len(self._unsaid) - SAID_AT_ONCE
        if much > 0:
            del self._unsaid[:much]
            self._skipped += much
        if self._skipped:
            self._say("", f"… {self._skipped} lines more")
            self._skipped = 0
        for stream, line in self._unsaid:
            self._say(stream, line)
        self._said += len(self._unsaid)
        self._unsaid.clear()
        if self._said >= SAID_AT_ALL:
            self._say("", f"… what it prints after its first {SAID_AT_ALL} lines is not kept, but for the end")

    def _line(self, stream: str, raw: bytes) -> None:
        text = raw.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]
        # Whole, then cut: half a secret would be one too.
        line = _CONTROL.sub("", self.masked(text))
        if len(line) > LONGEST_LINE:
            line = line[: LONGEST_LINE - 1] + "…"
        self.lines += 1
        self.last.append(line)
        self._unsaid.append((stream, line))

    def masked(self, text: str) -> str:
        """Return a text without the secrets in it."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return redact(text)


def _forms(secret: str) -> list[str]:
    """Return a secret as programs print it: as it is, and as languages quote it; nothing of an empty one."""
    quoted = (repr(secret), json.dumps(secret), json.dumps(secret, ensure_ascii=False))
    return [secret, *(word[1:-1] for word in quoted), repr(secret.encode())[2:-1]] if secret else []


@contextmanager
def private_folder() -> Iterator[Path]:
    """Give a folder that nobody else may look into, and remove it; and those of processes that were killed."""
    _clear_old()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _clear_old() -> None:
    """Remove the folders that nobody holds any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            found = folder.lstat()
            # One that was made just now is perhaps not held yet.
            if found.st_uid != os.geteuid() or clock.now().timestamp() - found.st_mtime < FRESH:
                continue
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)


@contextmanager
def launched(
    program: Program, *, remove: Path, stdin: int = subprocess.DEVNULL
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a program by its launcher; give its process, and where a `K` is written to end it and all that it started.

    Whoever leaves has seen to its end. `remove` is the folder that goes with the program when this process is killed.
    """
    listening, lifeline = os.pipe()
    os.set_blocking(lifeline, False)
    launcher = Path(__file__).with_name("launcher.py")
    words = [sys.executable, "-I", "-S", str(launcher), str(listening), str(SILENCE), str(remove), *program.command]
    try:
        process = subprocess.Popen(
            words,
            cwd=program.folder,
            env=dict(program.environment),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[listening],
            # A group of its own: the terminal's Ctrl-C is the driver's, who ends the program at the right moment.
            start_new_session=True,
        )
    except BaseException:
        os.close(lifeline)
        raise
    finally:
        os.close(listening)
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(lifeline, over), name="segue script", daemon=True)
    beat.start()
    try:
        yield process, lifeline
    finally:
        over.set()
        beat.join()
        os.close(lifeline)
        process.wait()


def execute(program: Program, *, boundary: Callable[[], None], output: Output, remove: Path) -> int:
    """Run a program to its end and return its exit code, above 128 when a signal ended it.

    `boundary` is asked all the time; what it raises ends the program and everything it started, gently first, and is
    raised again. `remove` is the folder that goes with the program when this process is killed.
    """
    with launched(program, remove=remove) as (process, lifeline), _Reader(process, output) as reader:
        try:
            while not reader.ended():
                boundary()
                reader.read(TICK)
        except (KeyboardInterrupt, FenceLost):
            raise  # at once: a person is impatient, or another process may work on the target by now
        except BaseException:
            _signal(process, signal.SIGTERM)
            reader.wait(GRACE)
            raise
        finally:
            if not reader.ended():
                # The launcher knows of what has left the group, and ends that too.
                with suppress(OSError):
                    os.write(lifeline, b"K")
                reader.wait(KILLING)
            _signal(process, signal.SIGKILL)
            reader.rest()
        return process.wait()


def kill(process: subprocess.Popen[bytes], lifeline: int) -> int:
    """End a launched program and everything it started, at once; return its exit code, above 128 for a signal."""
    with suppress(OSError):
        os.write(lifeline, b"K")
    try:
        # The launcher knows of what has left the group, and ends that too.
        code = process.wait(KILLING)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        code = process.wait()
    return code if code >= 0 else 128 - code


class _Reader:
    """Reads both streams of a program."""

    def __init__(self, process: subprocess.Popen[bytes], output: Output) -> None:
        self._process = process
        self._output = output
        self._selector = selectors.DefaultSelector()
        self._said = clock.ticks()
        for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
            assert stream is not None  # noqa: S101  # both were asked for
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ, name)

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def ended(self) -> bool:
        """Return whether the program has ended; its number is still its own, so that its group can be told."""
        if self._process.returncode is not None:
            return True
        if not hasattr(os, "waitid"):  # macOS, before Python 3.13
            return self._process.poll() is not None
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is not None

    def read(self, seconds: float) -> None:
        """Read what comes within this time, at most."""
        until = clock.ticks() + seconds
        while True:
            left = max(0.0, until - clock.ticks())
            if not self._selector.get_map():
                clock.sleep(min(left, 0.02))
                break
            # Looked at often: a program may close its streams late, or leave them to others.
            ready = self._selector.select(min(left, 0.05))
            for key, _ in ready:
                self._piece(key)
            if left == 0 or self.ended():
                break
        if clock.ticks() - self._said >= SAY_EVERY:
            self._output.flush()
            self._said = clock.ticks()

    def wait(self, seconds: float) -> None:
        """Read until the program has ended, for at most this time."""
        until = clock.ticks() + seconds
        while not self.ended() and clock.ticks() < until:
            self.read(TICK)

    def rest(self) -> None:
        """Read what is left in the streams of a program that has ended, and say it."""
        until = clock.ticks() + 1.0
        while self._selector.get_map() and clock.ticks() < until:
            for key, _ in self._selector.select(0.05):
                self._piece(key)
        for name in ("stdout", "stderr"):
            self._output.take(name, b"")
        self._output.flush()

    def _piece(self, key: selectors.SelectorKey) -> None:
        with suppress(BlockingIOError):
            data = os.read(key.fd, _LONGEST_READ)
            if not data:
                self._selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                return
            self._output.take(key.data, data)


def _beat(lifeline: int, over: threading.Event) -> None:
    """Let the launcher know once a second that this process goes on."""
    while not over.wait(1.0):
        with suppress(OSError):
            os.write(lifeline, b".")


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Tell the whole group; its leader is not waited for yet, so the number is nobody else's."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
