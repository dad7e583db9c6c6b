"""Show an online change: a key of many tables widened under live traffic, killed twice, swapped, and taken back."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any

from segue.demo import oracle
from segue.demo.show import Report, Show, end_process
from segue.model.quantities import count, duration

CHANGE = ["change", "start", "orders", "ALTER COLUMN id TYPE bigint", "--env", "demo", "--strategy", "shadow-table"]

#: The phases in which the change is killed, and whether some of the rows must have been copied by then.
KILLS = (("copying-data", True), ("draining", False))


@dataclass
class OnlineReport(Report):
    """What the scenario found, beside what every demo reports."""

    kills: int = 0
    swaps: int = 0
    rolled_back: bool = False
    prepared: oracle.Verdict | None = None

    types: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Return whether everything that the scenario promises was so."""
        prepared = self.prepared
        return (
            bool(self.verdicts)
            and all(verdict.ok and not verdict.row_types for verdict in self.verdicts.values())
            and prepared is not None
            and prepared.ok
            and all(step["status"] == "completed" for step in self.steps)
            and self.kills == len(KILLS)
            and self.swaps >= 2
            and self.rolled_back
            and self.schema_equal
            and self.recovered is not None
        )

    def as_json(self) -> dict[str, Any]:
        """Return the report as the one object that `--json` prints."""
        names = ("acknowledged", "lost", "duplicated", "wrong", "errors")
        prepared = self.prepared or oracle.Verdict()
        return {
            **super().as_json(),
            "change": {"kills": self.kills, "swaps": self.swaps, "rolled_back": self.rolled_back},
            "traffic_prepared": {
                **{name: int(getattr(prepared, name)) for name in names},
                "row_type_errors": prepared.row_types,
            },
        }

    def say(self) -> None:
        """Print the report for people."""
        super().say()
        prepared = self.prepared or oracle.Verdict()
        print(
            f"  change        swapped {self.swaps} times, killed with -9 {self.kills} times, "
            f"{'rolled back once' if self.rolled_back else 'was NOT rolled back'}"
        )
        print(
            f"  prepared      {count(prepared.acknowledged)} transactions acknowledged: {prepared.lost} lost, "
            f"{prepared.duplicated} duplicated, {prepared.wrong} wrong, {prepared.errors} errors, "
            f"{prepared.row_types} told once that a row type has changed"
        )


class OnlineShow(Show):
    """See `segue.demo.show.Show`."""

    narrow = True
    reported = OnlineReport

    def run(self) -> None:
        """Do it all, in order."""
        begin = time.monotonic()
        self._open()
        self._fill()
        schema = self._dump()
        self._open_store()
        self._traffic = self._start_traffic("--unprepared")
        marks = {"start": time.time()}
        self._screen.doing("the application runs alone")
        self._watch(self._alone)
        marks["change"] = time.time()
        self._screen.doing("widening the number of orders, in every table that has it, while the application works")
        self._change_and_kill()
        self._swapped()
        self._judge("changed", {})
        self._screen.doing("taking the change back")
        self._must(self._follow(["rollback", "--yes"]), "the rollback")
        self._report.rolled_back = self._kind() == "integer"
        self._compare_schema(schema)
        self._judge("rolled back", {})
        self._screen.doing("changing it again")
        self._must(self._follow(CHANGE), "the second change")
        self._swapped()
        self._report.steps = [
            {name: step[name] for name in ("name", "kind", "status", "seconds")} for step in self._status()["steps"]
        ]
        marks["end"] = time.time()
        self._screen.doing("the application runs on, on the new tables")
        self._watch(self._alone)
        self._judge("changed again", {})
        end_process(self._traffic, signal.SIGTERM)
        latencies = self._tail.look().latencies
        self._report.latency = {
            "before": oracle.percentiles(latencies, marks["start"], marks["change"]),
            "during": oracle.percentiles(latencies, marks["change"], marks["end"]),
            "after": oracle.percentiles(latencies, marks["end"]),
        }
        self._prepared()
        self._report.seconds = time.monotonic() - begin

    def _prepared(self) -> None:
        """Do the way back once more, with an application whose driver has its statements prepared by the server."""
        oracle.take(self._url, self._folder / "before")
        self._screen.doing("the same once more, for an application whose driver prepares its statements")
        self._traffic = self._start_traffic()
        self._watch(self._alone)
        self._must(self._follow(["rollback", "--yes"]), "the rollback under prepared statements")
        self._watch(self._alone / 2)
        verdicts = dict(self._report.verdicts)
        self._judge("prepared", {})
        self._report.prepared = self._report.verdicts["prepared"]
        self._report.verdicts = verdicts
        end_process(self._traffic, signal.SIGTERM)

    def _change_and_kill(self) -> None:
        process = self._segue(CHANGE)
        for phase, some in KILLS:
            if not self._until(process, phase, some=some):
                break
            process.kill()
            process.wait()
            killed = time.monotonic()
            self._report.kills += 1
            self._report.killed = True
            self._screen.say(f"  kill -9 of the change while it was {phase}; starting it again")
            fence = self._lease()
            process = self._segue(["resume"])
            self._back_at_work(process, fence, killed)
        while process.poll() is None:
            self._look()
            time.sleep(0.1)
        self._must(process.returncode, "the change")

    def _until(self, process: subprocess.Popen[bytes], phase: str, *, some: bool) -> bool:
        """Wait for a phase of the change, and return whether it came."""
        while process.poll() is None:
            self._look_at_traffic()
            now, rows = self._standing()
            if now == phase and (rows or not some):
                return True
            time.sleep(0.01)
        return False

    def _back_at_work(self, process: subprocess.Popen[bytes], fence: int, killed: float) -> None:
        """Wait until another process holds the lease and works."""
        while process.poll() is None and self._lease() <= fence:
            time.sleep(0.02)
        took = round(time.monotonic() - killed, 2)
        self._report.recovered = max(took, self._report.recovered or 0.0)
        self._screen.say(f"  back at work {duration(took)} after the kill")

    def _lease(self) -> int:
        row = self._eye.execute("SELECT fence FROM segue.lease WHERE role = 'fence'").fetchone()
        return int(row[0]) if row else 0

    def _standing(self) -> tuple[str, int]:
        """Return the change's phase, and how many rows are copied."""
        row = self._eye.execute("SELECT to_regclass('segue.change') IS NOT NULL").fetchone()
        if row is None or not row[0]:
            return "", 0
        row = self._eye.execute(
            "SELECT phase, (SELECT coalesce(sum(rows), 0) FROM segue.chunk)::bigint FROM segue.change"
            " ORDER BY created_at DESC LIMIT 1"
        ).fetchone()
        return (str(row[0]), int(row[1])) if row else ("", 0)

    def _kind(self) -> str:
        row = self._eye.execute(
            "SELECT format_type(atttypid, NULL) FROM pg_attribute"
            " WHERE attrelid = 'order_items'::regclass AND attname = 'order_id'"
        ).fetchone()
        return str(row[0]) if row else ""

    def _swapped(self) -> None:
        """Count the swap, if the tables are what they were to become."""
        if self._kind() == "bigint":
            self._report.swaps += 1
