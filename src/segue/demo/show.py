"""Show the whole way on a real database: migrate under live traffic, crash, go on, take back, apply again, prove it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from segue.demo import oracle, storefront
from segue.demo.journal import Tail
from segue.demo.screen import Screen
from segue.errors import InternalError, Interrupted, SegueError, StepFailed
from segue.model.quantities import count, duration, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.embedded import Cluster
    from segue.settings import Settings
    from segue.store import Store

#: What the plan does to the names that the oracle reads.
RENAMED = {"customers": {"fax": "fax_retired"}}

#: The migration is killed in its first backfill that is seen between these parts of its rows.
KILL_FROM, KILL_UNTIL = 0.2, 0.8


@dataclass
class Report:
    """What the demo found; `as_json` is what `segue demo --json` prints."""

    seconds: float = 0.0
    tables: int = 0
    steps: list[dict[str, Any]] = field(default_factory=list)
    verdicts: dict[str, oracle.Verdict] = field(default_factory=dict)
    latency: dict[str, dict[str, float]] = field(default_factory=dict)
    killed: bool = False
    recovered: float | None = None
    schema_equal: bool = False
    schema_difference: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Return whether everything that the demo promises was so."""
        return (
            bool(self.verdicts)
            and all(verdict.ok for verdict in self.verdicts.values())
            and all(step["status"] == "completed" for step in self.steps)
            and self.killed
            and self.recovered is not None
            and self.schema_equal
        )

    def most(self, what: str) -> int:
        """Return a number of the verdicts; each judges all that was before, so the numbers are not added up."""
        return max((int(getattr(verdict, what)) for verdict in self.verdicts.values()), default=0)

    def as_json(self) -> dict[str, Any]:
        """Return the report as the one object that `--json` prints."""
        back = self.verdicts.get("rolled back")
        return {
            "segue": 1,
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "tables": self.tables,
            "steps": self.steps,
            "traffic": {name: self.most(name) for name in ("acknowledged", "lost", "duplicated", "wrong", "errors")},
            "latency_ms": self.latency,
            "resume": {"killed": self.killed, "recovered_s": self.recovered},
            "rollback": {"schema_equal": self.schema_equal, "data_equal": back is not None and back.data_ok},
        }

    def say(self) -> None:
        """Print the report for people."""
        content = self.as_json()
        traffic, latency = content["traffic"], content["latency_ms"]
        print()
        well = "all is well" if self.ok else "NOT all is well"
        steps = f"{len(self.steps)} step{'s' * (len(self.steps) != 1)}"
        print(f"{well}: {self.tables} tables, {steps}, ", end="")
        print(f"{self.seconds:.0f} seconds")
        print(
            f"  application   {count(traffic['acknowledged'])} transactions acknowledged: {traffic['lost']} lost, "
            f"{traffic['duplicated']} duplicated, {traffic['wrong']} wrong, {traffic['errors']} errors"
        )
        for moment in ("before", "during", "after"):
            words = ", ".join(f"{name} {value:.1f} ms" for name, value in latency[moment].items())
            print(f"  latency       {moment:<7} {words}")
        killed = f"back at work after {self.recovered} s" if self.recovered is not None else "did not come back"
        print(f"  crash         {f'killed with -9, {killed}' if self.killed else 'was not killed'}")
        back = content["rollback"]
        print(
            f"  rollback      schema {'equal' if back['schema_equal'] else 'DIFFERS'}, "
            f"data {'equal' if back['data_equal'] else 'DIFFERS'}"
        )


def demo(
    *,
    scale: float = 0.05,
    json_output: bool = False,
    rate: float = 150.0,
    alone: float = 6.0,
    keep: bool = False,
    scene: type[Show] | None = None,
) -> int:
    """Run the demo and print its report; returns 0 only if all is well, 1 when something was lost or is wrong.

    The application runs `alone` for so many seconds before the first step and after the last, to compare latencies.
    Everything happens in servers of its own in a temporary folder, which is deleted at the end unless `keep`.
    Raises Interrupted on Ctrl-C, after everything that was started has been stopped.
    """
    from segue.settings import prepare_folder

    folder = prepare_folder(Path(tempfile.gettempdir()) / f"segue-demo-{os.getpid()}-{secrets.token_hex(3)}")
    before = signal.signal(signal.SIGTERM, _interrupt)
    scene = scene or Show
    report = scene.reported()
    try:
        with contextlib.ExitStack() as stack:
            if not keep:
                stack.callback(remove, folder)
            screen = stack.enter_context(Screen(quiet=json_output))
            scene(folder, scale=scale, rate=rate, alone=alone, screen=screen, report=report, stack=stack).run()
    except KeyboardInterrupt:
        raise Interrupted("stopped the demo, and everything that it had started") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if json_output:
        print(json.dumps(report.as_json(), indent=2))
    else:
        report.say()
    if keep:
        print(f"kept in {folder}", file=sys.stderr)
    return 0 if report.ok else 1


class Show:
    """The storefront, its traffic, and Segue's commands as processes; `run` shows a backfill's crash and a way back."""

    #: Whether orders have 32-bit numbers at first.
    narrow = False
    #: Settings of the storefront's server, and whether it is reached by TCP too.
    options: ClassVar[dict[str, str]] = {}
    tcp = False
    #: The program that is the application, and the environment's name.
    application = "segue.demo.traffic"
    environment = "demo"
    reported: type[Report] = Report

    def __init__(
        self,
        folder: Path,
        *,
        scale: float,
        rate: float,
        alone: float,
        screen: Screen,
        report: Report,
        stack: contextlib.ExitStack,
    ) -> None:
        self._folder = folder
        self._scale = scale
        self._rate = rate
        self._alone = alone
        self._screen = screen
        self._report: Any = report
        self._stack = stack
        self._filled = _backfilled()
        #: Rows of each table that a backfill fills.
        self._sizes: dict[str, int] = {}
        #: When a backfill was first seen, and how far it was.
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}
        #: The traffic's journals, the present one last.
        self._journals: list[Path] = []
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SEGUE_", "PG"))},
            "SEGUE_HOME": str(folder / "home"),
            "SEGUE_USER": "demo",
            "NO_COLOR": "1",
        }

    def run(self) -> None:
        """Do it all, in order."""
        begin = time.monotonic()
        self._open()
        self._fill()
        schema = self._dump()
        self._open_store()
        self._traffic = self._start_traffic()
        marks = {"start": time.time()}
        self._screen.doing("the application runs alone")
        self._watch(self._alone)
        marks["migration"] = time.time()
        with as_file(files("segue.demo") / "plans" / "storefront.yaml") as plan:
            self._crash_and_finish(plan)
            self._judge("applied", RENAMED)
            self._screen.doing("taking everything back")
            self._must(self._follow(["rollback", "--yes"]), "the rollback")
            self._compare_schema(schema)
            self._judge("rolled back", {})
            self._screen.doing("applying the plan again")
            self._must(self._follow(["run", str(plan), "--env", "demo"]), "the second run")
        self._report.steps = [
            {name: step[name] for name in ("name", "kind", "status", "seconds")} for step in self._status()["steps"]
        ]
        marks["end"] = time.time()
        self._screen.doing("the application runs on, on the new schema")
        self._watch(self._alone)
        self._judge("applied again", RENAMED)
        end_process(self._traffic, signal.SIGTERM)
        latencies = self._tail.look().latencies
        self._report.latency = {
            "before": oracle.percentiles(latencies, marks["start"], marks["migration"]),
            "during": oracle.percentiles(latencies, marks["migration"], marks["end"]),
            "after": oracle.percentiles(latencies, marks["end"]),
        }
        self._report.seconds = time.monotonic() - begin

    # -- what it stands on

    def _open(self) -> None:
        from segue.embedded import Cluster

        self._screen.doing("starting two PostgreSQL servers: the storefront's, and Segue's store")
        self._cluster: Cluster = Cluster(
            self._folder / "target", database="storefront", options=self.options, tcp=self.tcp
        )
        self._stack.enter_context(self._cluster.use())
        self._url = self._cluster.url()
        self._eye = self._stack.enter_context(storefront.connect(self._url))

    def _fill(self) -> None:
        from psycopg import sql

        self._screen.doing("creating the storefront and filling it")
        self._password = secrets.token_urlsafe(18)
        storefront.create(self._url, self._password, narrow=self.narrow)
        bytes_ = storefront.load(self._url, self._scale)
        with storefront.connect(self._url) as connection:
            self._report.tables = len(storefront.tables(connection))
            for table in set(self._filled.values()):
                query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
                row = connection.execute(query).fetchone()
                self._sizes[table] = int(row[0]) if row else 0
        rows = oracle.take(self._url, self._folder / "before")
        self._screen.say(f"  {self._report.tables} tables, {count(rows)} rows, {size(bytes_)}")

    def _open_store(self) -> None:
        from segue.settings import Settings
        from segue.store import open_store

        # Held open here, so that the commands below find it running.
        self._settings: Settings = Settings(home=self._folder / "home", store=None, key=None, user="demo")
        self._store: Store = self._stack.enter_context(open_store(self._settings))
        self._add_environment(self.environment, self._url)

    def _add_environment(self, name: str, url: str) -> None:
        from segue import wiring
        from segue.model.vocabulary import EnvironmentType
        from segue.services import environments

        database = wiring.parts().database
        wanted = environments.Wanted(name=name, type=EnvironmentType.DEVELOPMENT)
        with self._store.session() as session:
            environments.add(
                session, self._settings, wanted, url, lambda location: database(location).probe(location), check=True
            )

    def _start_traffic(self, *words: str) -> subprocess.Popen[bytes]:
        journal = self._folder / f"journal-{len(self._journals)}"
        self._journals.append(journal)
        traffic = self._start(
            [sys.executable, "-m", self.application, "--journal", str(journal), "--rate", str(self._rate), *words],
            self._folder / "traffic.log",
            self._variables(),
        )
        self._tail = Tail(journal)
        limit = time.monotonic() + 30
        while not self._tail.look().started:
            if traffic.poll() is not None or time.monotonic() > limit:
                raise InternalError(f"the demo's traffic did not start: {_end_of(self._folder / 'traffic.log')}")
            time.sleep(0.05)
        return traffic

    def _variables(self) -> dict[str, str]:
        """Return what tells the application where its data is."""
        return {"STOREFRONT_URL": self._as_application(self._url)}

    def _as_application(self, url: str) -> str:
        """Return the owner's URL with the application's name and password instead."""
        rest = url.split("@", 1)[1]
        return f"postgresql://{storefront.APPLICATION}:{quote(self._password, safe='')}@{rest}"

    def _start(self, command: list[str], log: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a process that ends with the demo. In a session of its own: Ctrl-C is for the demo to handle."""
        file: IO[bytes] = self._stack.enter_context(log.open("ab"))
        process = subprocess.Popen(
            command, env={**self._environment, **variables}, stdout=file, stderr=file, start_new_session=True
        )
        self._stack.callback(end_process, process, signal.SIGTERM)
        return process

    # -- what it does

    def _segue(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        return self._start([sys.executable, "-m", "segue", *arguments, "--json"], self._folder / "segue.log", {})

    def _follow(self, arguments: list[str]) -> int:
        """Run a command of Segue and show how it goes; returns its exit code."""
        process = self._segue(arguments)
        while process.poll() is None:
            self._look()
            time.sleep(0.1)
        self._look()
        return process.returncode

    def _crash_and_finish(self, plan: Path) -> None:
        """Run the plan, kill the run in the middle of a backfill, and run it again to the end."""
        command = ["run", str(plan), "--env", "demo"]
        self._screen.doing("running a plan of many steps while the application works")
        process = self._segue(command)
        stopped_at: tuple[str, int] | None = None
        while process.poll() is None and stopped_at is None:
            stopped_at = self._middle_of_backfill(process, self._look())
            time.sleep(0.03)
        if stopped_at is None:
            self._must(process.returncode, "the run")
            return
        process.kill()
        process.wait()
        killed = time.monotonic()
        self._report.killed = True
        step, rows = stopped_at
        # A statement that was under way may still end; what counts is written by the new process, under its own fence.
        fence = self._fence()
        self._screen.say(
            f"  kill -9 of `segue run` in the middle of {step}, after {count(rows)} rows; starting it again"
        )
        process = self._segue(command)
        while process.poll() is None:
            now = self._look()
            if self._report.recovered is None and self._written(now, step, after=fence):
                self._report.recovered = round(time.monotonic() - killed, 2)
                self._screen.say(f"  back at work {duration(self._report.recovered)} after the kill")
            time.sleep(0.03)
        if self._report.recovered is None and self._written(self._look(), step, after=fence):
            self._report.recovered = round(time.monotonic() - killed, 2)
        self._must(process.returncode, "the run")

    def _middle_of_backfill(
        self, process: subprocess.Popen[bytes], execution: dict[str, Any]
    ) -> tuple[str, int] | None:
        """Return name and keys of the backfill that is under way, once it is far enough to be killed."""
        step = next(
            (step for step in execution.get("steps", ()) if step["status"] == "running" and "job" in step), None
        )
        while step is not None and process.poll() is None:
            done = self._written(execution, step["name"])
            if done > KILL_UNTIL * self._sizes[self._filled[step["name"]]]:
                return None
            if done >= KILL_FROM * self._sizes[self._filled[step["name"]]]:
                return step["name"], done
            time.sleep(0.003)  # a backfill of the demo's size takes less than a second
        return None

    def _written(self, execution: dict[str, Any], step: str, *, after: int = 0) -> int:
        """Return how many keys of a backfill were done under later fences than `after`.

        From the target, because the store follows a second behind.
        """
        row = self._eye.execute(
            "SELECT coalesce(sum(keys), 0)::bigint FROM segue.chunk"
            " WHERE execution = %s AND step = %s AND direction = 'forward' AND fence > %s",
            (execution["execution"], step, after),
        ).fetchone()
        return int(row[0]) if row else 0

    def _fence(self) -> int:
        row = self._eye.execute("SELECT max(fence) FROM segue.chunk").fetchone()
        return int(row[0]) if row else 0

    def _must(self, code: int, what: str) -> None:
        if code:
            raise StepFailed(
                f"{what} ended with exit code {code}",
                hint="run `segue demo --keep` to look at its folder afterwards",
                details=_end_of(self._folder / "segue.log").splitlines()[-12:],
            )

    def _judge(self, moment: str, renamed: dict[str, dict[str, str]]) -> None:
        """Stop the traffic between two transactions, let the oracle compare everything, and let it go on."""
        self._screen.doing("the application pauses, and every row is compared with what was acknowledged")
        with self._paused():
            verdict = oracle.judge(self._url, self._folder / "before", self._journals[-1], renamed=renamed)
        self._tell(moment, verdict)

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """Stop the traffic between two transactions, and let it go on afterwards."""
        self._traffic.send_signal(signal.SIGUSR1)
        limit = time.monotonic() + 30
        while not self._tail.look().paused:
            if self._traffic.poll() is not None or time.monotonic() > limit:
                raise InternalError(f"the demo's traffic stopped: {_end_of(self._folder / 'traffic.log')}")
            time.sleep(0.02)
        yield
        self._traffic.send_signal(signal.SIGUSR2)
        while self._tail.look().paused and self._traffic.poll() is None:
            time.sleep(0.02)

    def _tell(self, moment: str, verdict: oracle.Verdict) -> None:
        self._report.verdicts[moment] = verdict
        self._screen.say(
            f"  {count(verdict.rows)} rows compared: {verdict.lost} lost, {verdict.duplicated} duplicated,"
            f" {verdict.wrong} wrong; {verdict.errors} errors"
        )
        for line in verdict.details:
            self._screen.say(f"    {line}")

    def _compare_schema(self, before: str) -> None:
        import difflib

        after = self._dump()
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", lineterm="", n=0)
        self._report.schema_difference = list(lines)
        self._report.schema_equal = before == after
        self._screen.say(f"  schema {'equal to the one before' if self._report.schema_equal else 'differs'}")
        for line in self._report.schema_difference[: oracle.SPOKEN]:
            self._screen.say(f"    {line}")

    def _dump(self, *words: str) -> str:
        """Return the storefront's schema as pg_dump writes it, without Segue's own, by further arguments in part."""
        from psycopg.conninfo import conninfo_to_dict

        from segue.embedded import binaries

        # By variables: the arguments of a process can be read by others.
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
        given = {names[name]: str(value) for name, value in conninfo_to_dict(self._url).items() if name in names}
        done = subprocess.run(
            [binaries() / "pg_dump", "--schema-only", "--exclude-schema=segue", *words],
            env={**self._environment, **given},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise InternalError(f"pg_dump failed: {done.stderr.strip()}")
        # \restrict carries a new random word each time.
        return "\n".join(
            line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))
        )

    # -- what it sees

    def _watch(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._look_at_traffic()
            time.sleep(0.1)

    def _look(self) -> dict[str, Any]:
        self._look_at_traffic()
        status = self._status()
        for step in status.get("steps", ()):
            if step["kind"] == "backfill" and step["status"] == "running" and "job" in step:
                self._sharpen(status, step)
        self._screen.show(status)
        return status

    def _sharpen(self, execution: dict[str, Any], step: dict[str, Any]) -> None:
        """Bring a backfill's progress up to this moment: the record follows a second behind, an age for the demo."""
        rows = self._written(execution, step["name"])
        begin, before = self._seen.setdefault((execution["execution"], step["name"]), (time.monotonic(), rows))
        job, passed = step["job"], time.monotonic() - begin
        job["processed_rows"] = max(rows, job["processed_rows"])
        job["total_rows"] = max(self._sizes[self._filled[step["name"]]], rows)
        job["percent"] = 100 * rows / max(1, job["total_rows"])
        job["rows_per_second"] = (rows - before) / passed if passed > 0.2 else None

    def _look_at_traffic(self) -> None:
        tail = self._tail.look()
        recent = [item for item in tail.latencies[-2000:] if item[0] >= time.time() - 5]
        self._screen.application = {
            "acknowledged": tail.acknowledged,
            "per_second": len(recent) / 5,
            "errors": len(tail.errors),
            **oracle.percentiles(recent),
        }

    def _status(self) -> dict[str, Any]:
        from segue.errors import NotFound
        from segue.services import watching

        with self._store.session() as session:
            try:
                return watching.describe(session, watching.find(session, None))
            except NotFound:
                return {}


def _backfilled() -> dict[str, str]:
    """Return the table that each backfill of the demo's plan fills, by the step's name."""
    import yaml

    plan = yaml.safe_load((files("segue.demo") / "plans" / "storefront.yaml").read_text())
    return {step["name"]: step["table"] for step in plan["steps"] if step["kind"] == "backfill"}


def remove(folder: Path) -> None:
    """Delete the demo's folder. Its servers first: their data lies elsewhere when they could not reach it there."""
    from segue.embedded import Cluster

    for directory in (folder / "target", folder / "services", folder / "home" / "store"):
        if directory.exists():
            with contextlib.suppress(SegueError, OSError):
                Cluster(directory).destroy()
    shutil.rmtree(folder, ignore_errors=True)


def end_process(process: subprocess.Popen[bytes], first: signal.Signals) -> None:
    """End a process that we started: by a signal that it can act on, and if it does not, at once."""
    if process.poll() is not None:
        return
    process.send_signal(first)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_of(log: Path) -> str:
    try:
        return log.read_text(errors="replace")[-2000:].strip()
    except OSError:
        return ""


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
