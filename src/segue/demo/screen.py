"""What a person sees while the demo runs: live on a terminal, plain lines elsewhere, nothing where nobody asked."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segue.model.quantities import count, duration

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass
class Screen:
    """Takes what happened and what is going on. `quiet` shows nothing."""

    quiet: bool = False
    #: What is going on now, in words.
    title: str = ""
    #: The execution as `segue status --json` gives it.
    execution: dict[str, Any] = field(default_factory=dict)
    #: The application: acknowledged, per_second, p50, p99, errors.
    application: dict[str, float] = field(default_factory=dict)
    _live: Any = None
    _told: set[tuple[str, str, str]] = field(default_factory=set)
    _begin: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Screen:
        colorful = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        if not self.quiet and sys.stderr.isatty() and colorful:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                console=Console(stderr=True), get_renderable=self._picture, refresh_per_second=8, transient=True
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, words: str) -> None:
        """Tell what has happened: it stays on the screen."""
        if self.quiet:
            return
        line = f"{time.monotonic() - self._begin:6.1f} s  {words}"
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def doing(self, words: str) -> None:
        """Tell what begins."""
        self.title = words
        self.execution = {}
        self.say(words)

    def show(self, execution: dict[str, Any]) -> None:
        """Show how far the execution is; a step that has ended is told once."""
        self.execution = execution
        steps = execution.get("steps", [])
        for step in steps if execution.get("direction") == "forward" else reversed(steps):
            undo = step.get("undo")
            status = undo["status"] if undo else step["status"]
            seconds = undo["seconds"] if undo else step["seconds"]
            mark = (execution["execution"], step["name"], f"{bool(undo)} {status}")
            if seconds is None or status not in _ENDED or mark in self._told or (undo and status == "skipped"):
                continue
            self._told.add(mark)
            rows = f"  {count(step['job']['processed_rows'])} rows" if "job" in step and not undo else ""
            sign = "↶" if undo and status == "completed" else _ENDED[status]
            self.say(f"  {sign} {step['name']:<24} {step['kind']:<9} {duration(seconds):>8}{rows}")

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        parts: list[RenderableType] = [Text(""), Text(self.title, style="bold")]
        steps = self.execution.get("steps", [])
        if steps:
            done = self.execution["steps_completed"]
            head = Table.grid(padding=(0, 2))
            head.add_row(
                "steps",
                ProgressBar(total=max(1, self.execution["steps_total"]), completed=done, width=30),
                f"{done} of {self.execution['steps_total']}",
            )
            running = next((step for step in steps if (step.get("undo") or step)["status"] == "running"), None)
            if running is not None:
                job = running.get("job")
                if job:
                    words = f"{count(job['processed_rows'])} rows"
                    if job["rows_per_second"]:
                        words += f", {count(job['rows_per_second'])} rows/s"
                        left = (job["total_rows"] - job["processed_rows"]) / job["rows_per_second"]
                        words += f", {duration(max(0.0, left))} left"
                    head.add_row(
                        running["name"], ProgressBar(total=100, completed=job["percent"] or 0, width=30), words
                    )
                else:
                    head.add_row(running["name"], "", "")
            parts.append(head)
        if self.application:
            application = self.application
            errors = int(application["errors"])
            parts.append(
                Text.assemble(
                    f"application  {count(application['acknowledged'])} transactions acknowledged, "
                    f"{application['per_second']:.0f}/s, latency p50 {application['p50']:.1f} ms, "
                    f"p99 {application['p99']:.1f} ms, ",
                    (f"{errors} errors", "bold red" if errors else "green"),
                )
            )
        return Group(*parts)


_ENDED = {"completed": "✓", "undone": "↶", "failed": "✗", "skipped": "-", "warned": "!"}
