"""The process that calls a job's function: started when it is needed, watched, and ended with everything it started."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.databases.postgresql.jobs.link import Pieces, framed
from segue.engine import scripts
from segue.errors import StepFailed
from segue.model.quantities import duration, size
from segue.model.scripts import LEADING, Script, path
from segue.planning import scriptfiles
from segue.ports import ChunkTooSlow

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

    from segue.model.jobs import Transform

MODULE = "segue.databases.postgresql.jobs.caller"
# Loading the function's file, with the libraries that it imports, is no call.
LOADING_SECONDS = 120.0
# How often whoever waits gives a sign of life.
TICK = 0.5
# Of what the function prints, so many lines are kept for an error.
KEPT_LINES = 50
SHOWN = 12
_LONGEST_READ = 1 << 18
_PIPE = -1  # of subprocess, which takes long to import


class CallEnded(ChunkTooSlow):
    """A call did not come to its end: it took too long, too much memory, or ended its process. Fewer rows may do."""

    def __init__(self, words: str, kind: str = "transformation") -> None:
        super().__init__(words)
        self.kind = kind


class FunctionProcess:
    """The process, as whoever gives it rows sees it.

    `source`: the columns of the rows with the number of each one's type; `gives`: the columns that come back, with
    their types. After CallEnded, or any other error, it is started anew by the next batch.
    """

    def __init__(
        self, transform: Transform, source: Sequence[tuple[str, int]], gives: Sequence[tuple[str, str]]
    ) -> None:
        self._transform = transform
        self._source, self._gives = list(source), list(gives)
        self._stack: ExitStack | None = None

    def call(
        self, pieces: Iterable[bytes], *, fault: Mapping[str, Any] | None = None, beat: Callable[[], object]
    ) -> dict[str, Any]:
        """Give a batch, as pieces of COPY in text format, and return what became of it; see `link`.

        With `fault` nothing is called. `beat` is called twice a second. Raises CallEnded, StepFailed when the function
        cannot be loaded, and whatever `pieces` or `beat` raise.
        """
        try:
            if self._stack is None:
                self._start(beat)
            self._send(framed(json.dumps({"fault": dict(fault) if fault is not None else None}).encode()), beat)
            for piece in pieces:
                if piece:
                    self._send(framed(piece), beat)
            self._send(framed(b""), beat)
            while True:
                said = self._said(self._transform.timeout, beat)
                if said.get("memory"):
                    raise CallEnded(f"the rows take more memory than the function may use ({self._most})")
                if "rows" in said:
                    return said
        except BaseException:
            self.end()
            raise

    def results(self) -> Iterator[bytes]:
        """Return what is ready, in pieces; all of them must be taken."""
        try:
            self._send(framed(json.dumps({"send": True}).encode()), _nothing)
            while piece := self._piece(self._transform.timeout, _nothing):
                yield piece
        except CallEnded:
            self.end()
            raise

    def end(self) -> None:
        """End the process."""
        if self._stack is not None:
            stack, self._stack = self._stack, None
            stack.close()

    @property
    def _most(self) -> str:
        return size(self._transform.memory)

    # -- starting and ending

    def _start(self, beat: Callable[[], object]) -> None:
        transform = self._transform
        file, _, function = transform.python.rpartition(":")
        with ExitStack() as stack:
            folder = stack.enter_context(scripts.private_folder())
            script = Script(python=transform.python, contents=dict(transform.contents))
            here = scriptfiles.lay_out(script, folder / "files")
            environment = {
                name: value
                for name, value in os.environ.items()
                if name not in LEADING and not name.startswith("SEGUE_")
            }
            environment |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "SEGUE_FILES": str(here)}
            program = scripts.Program([sys.executable, "-P", "-m", MODULE], here, environment)
            self._process, lifeline = stack.enter_context(scripts.launched(program, remove=folder, stdin=_PIPE))
            stack.callback(self._close)
            stack.callback(lambda: scripts.kill(self._process, lifeline))
            self._printed: deque[bytes] = deque(maxlen=KEPT_LINES)
            self._pieces = Pieces()
            assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018  as asked
            self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
            os.set_blocking(self._in, False)
            os.set_blocking(self._out, False)
            self._draining = threading.Thread(
                target=_drain, args=(self._process, self._printed), name="segue function", daemon=True
            )
            self._draining.start()
            self._stack = stack.pop_all()
        wanted = {
            "file": str(here / path(file)),
            "function": function,
            "source": self._source,
            "gives": self._gives,
            "memory": transform.memory,
        }
        self._send(framed(json.dumps(wanted).encode()), beat)
        said = self._said(LOADING_SECONDS, beat)
        if "error" in said:
            raise StepFailed(
                f'the function "{transform.python}" cannot be loaded: {said["error"]}',
                details=[line for part in said["stack"] for line in part.rstrip().split("\n")][-SHOWN:],
                hint="correct it, or install what it imports on every machine that runs the job",
            )

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._draining.join(1.0)

    # -- talking

    def _send(self, data: bytes, beat: Callable[[], object]) -> None:
        view = memoryview(data)
        while view:
            self._wait(self._transform.timeout, beat, writing=True)
            try:
                view = view[os.write(self._in, view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                self._raise_ended()

    def _said(self, seconds: float, beat: Callable[[], object]) -> dict[str, Any]:
        return dict(json.loads(self._piece(seconds, beat)))

    def _piece(self, seconds: float, beat: Callable[[], object]) -> bytes:
        while (piece := self._pieces.next()) is None:
            self._wait(seconds, beat, writing=False)
            data = os.read(self._out, _LONGEST_READ)
            if not data:
                self._raise_ended()
            self._pieces.take(data)
        return piece

    def _wait(self, seconds: float, beat: Callable[[], object], *, writing: bool) -> None:
        """Wait until something can be written, or read."""
        until = clock.ticks() + seconds
        poll = select.poll()  # any number of files may be open here
        poll.register(self._in if writing else self._out, select.POLLOUT if writing else select.POLLIN)
        while True:
            left = until - clock.ticks()
            if poll.poll(max(0.0, min(left, TICK)) * 1000):
                return
            if left <= 0:
                raise CallEnded(f"the function takes longer than {duration(seconds)}", "timeout")
            beat()

    def _raise_ended(self) -> None:
        code = self._process.wait()
        self._draining.join(1.0)
        how = f"exit code {code}"
        if code > 128:
            how = next((one.name for one in signal.Signals if one == code - 128), how)
        last = [line for line in (raw.decode("utf-8", "replace").strip() for raw in self._printed) if line]
        words = f"the function's process ended with {how}" + (f": {last[-1]}" if last else "")
        raise CallEnded(words)


def _drain(process: subprocess.Popen[bytes], lines: deque[bytes]) -> None:
    """Read what a process prints, so that it never waits for that to be read."""
    stream = process.stderr
    if stream is None:
        return
    with stream:
        while line := stream.readline(_LONGEST_READ):
            lines.append(line)


def _nothing() -> None:
    """Give no sign of life: what is waited for takes a moment."""
