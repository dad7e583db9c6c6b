"""Show a split: the monolith becomes four services with databases of their own, under traffic, and one goes back."""

from __future__ import annotations

import json
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any, ClassVar

from segue.demo import journal, oracle, sharing, storefront
from segue.demo.services import MONOLITH, SERVICES
from segue.demo.show import Report, Show, end_process
from segue.errors import InternalError
from segue.model.quantities import count, size

if TYPE_CHECKING:
    from segue.embedded import Cluster
    from segue.services.splits import Splitter

#: The service that goes back to the monolith, and leaves it again.
BACK = "payment"
#: The longest that a service may be kept waiting, in milliseconds.
PAUSE = 2000.0
#: What the lesson's platform has, and its maintenance window.
GOAL_BYTES, GOAL_HOURS = 500e9, 4.0

#: Views that go with a service's tables.
_VIEWS = {"customer": ("order_summary",), "catalogue": ("product_listing",), "payment": ("wallet_balances",)}
#: The oracle's questions that one service's database can answer.
_INVARIANTS = {
    "customer": ("an order's total is not the sum of its items", "an order's last recorded status is not its status"),
    "catalogue": ("stock is negative",),
    "payment": (
        "all entries do not sum to zero",
        "a booking does not sum to zero",
        "an account's balance is not the sum of its entries",
        "a wallet is negative",
        "a refund is not what was paid",
    ),
    "analytics": (),
}
#: What was one question in the monolith, and is asked of two databases now: what comes from payment, as which table.
#: What a service's tables have, with their indexes; what it made for itself has schemas of its own.
_MOVED_BYTES = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
"""
_PAID = "a paid order has no payment of its total"
#: Facts that are not what the payment service says, and the other way round.
_FACTS = """
SELECT count(*) FROM (
  (TABLE told EXCEPT ALL TABLE said) UNION ALL (TABLE said EXCEPT ALL TABLE told)
) AS different"""
#: Where events are written, and which.
_PUBLISHING = (MONOLITH, "payment-db", "customer-db")
_TOPICS = ("order.placed", "payment.taken", "payment.returned")
_TOLD = "SELECT order_id, direction, cents FROM sales.payment"
_SAID = """
SELECT order_id, 1::smallint, amount_cents FROM payments WHERE id > {mark}
UNION ALL
SELECT p.order_id, -1::smallint, r.amount_cents FROM refunds r JOIN payments p ON p.id = r.payment_id
WHERE r.id > {last}"""
#: A foreign key in a dump, with the table that it refers to.
_KEY = r"ALTER TABLE ONLY public\.\w+\n    ADD CONSTRAINT \w+ FOREIGN KEY \([^)]*\) REFERENCES public\.(\w+)[^;]*;"


@dataclass
class SplitReport(Report):
    """What the scenario found; `as_json` is what `segue demo --scenario split --json` prints."""

    phases: list[dict[str, Any]] = field(default_factory=list)
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    invariants: dict[str, bool] = field(default_factory=dict)
    reverse: dict[str, Any] = field(default_factory=dict)
    projection: dict[str, Any] = field(default_factory=dict)
    fenced: int = 0
    document: str = ""

    @property
    def ok(self) -> bool:
        """Return whether everything that the scenario promises was so."""
        return (
            len(self.verdicts) >= 3
            and all(verdict.ok for verdict in self.verdicts.values())
            and all(step["status"] == "completed" for step in self.steps)
            and set(self.services) == set(SERVICES)
            and all(service["equal"] for service in self.services.values())
            and bool(self.invariants)
            and all(self.invariants.values())
            and all(phase["pause_ms"] < PAUSE for phase in self.phases)
            and bool(self.reverse.get("ok"))
        )

    def as_json(self) -> dict[str, Any]:
        """Return the report as the one object that `--json` prints."""
        told = {name: self.most(name) for name in ("acknowledged", "lost", "duplicated", "wrong", "errors", "fenced")}
        return {
            "segue": 1,
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "tables": self.tables,
            "phases": self.phases,
            "traffic": told,
            "latency_ms": self.latency,
            "services": self.services,
            "reverse": self.reverse,
            "invariants": self.invariants,
            "projection_500gb": self.projection,
        }

    def say(self) -> None:
        """Print the report for people."""
        content = self.as_json()
        traffic = content["traffic"]
        print()
        well = "all is well" if self.ok else "NOT all is well"
        print(f"{well}: {self.tables} tables, {len(self.services)} services, {self.seconds:.0f} seconds")
        print(
            f"  application     {count(traffic['acknowledged'])} transactions acknowledged: {traffic['lost']} lost, "
            f"{traffic['duplicated']} duplicated, {traffic['wrong']} wrong, {traffic['errors']} errors, "
            f"{traffic['fenced']} turned away by a fence and done again"
        )
        for phase in self.phases:
            latency = self.latency.get(phase["name"], {})
            words = ", ".join(f"{name} {value:.1f} ms" for name, value in latency.items())
            print(f"  {phase['name']:<15} {phase['seconds']:>5.1f} s, longest wait {phase['pause_ms']:.0f} ms; {words}")
        for name, service in self.services.items():
            equal = "equal" if service["equal"] else "DIFFERS"
            print(f"  {name:<15} {service['tables']} tables, {count(service['rows'])} rows, {equal}")
        broken = [name for name, holds in self.invariants.items() if not holds]
        print(f"  invariants      {len(self.invariants) - len(broken)} of {len(self.invariants)} hold", end="")
        print(f": NOT {', '.join(broken)}" if broken else "")
        projection = self.projection
        fits = "fits" if projection["fits_4h"] else "does NOT fit"
        print(f"  at 500 GB       {projection['hours']:.1f} hours of copying beside the application; {fits} into 4")


class SplitShow(Show):
    """See `segue.demo.show.Show`."""

    reported = SplitReport
    options: ClassVar[dict[str, str]] = {
        "wal_level": "logical",
        "max_wal_senders": "20",
        "max_replication_slots": "20",
        "max_worker_processes": "30",
        "max_logical_replication_workers": "20",
        # A crash of the machine loses what servers of a demo would have lost anyway; a disk that is slow to flush
        # would be measured instead of what is shown.
        "checkpoint_timeout": "30min",
        "max_wal_size": "4GB",
    }
    tcp = True
    application = "segue.demo.services"
    environment = MONOLITH

    def run(self) -> None:
        """Do it all, in order."""
        begin = time.monotonic()
        self._open()
        self._fill()
        self._open_store()
        self._file = self._folder / "split.yaml"
        self._file.write_text(_text("split.yaml"))
        self._open_services()
        self._separate()
        self._build()
        self._relay()
        self._traffic = self._start_traffic()
        #: When each phase began.
        self._marks: list[tuple[str, float]] = [("before", time.time())]
        self._screen.doing("the application runs alone, all of it in the monolith")
        self._watch(self._alone)
        self._split()
        self._judge_services("split")
        self._back_and_forth()
        self._marks.append(("after", time.time()))
        self._screen.doing("the application runs on, each service in its own database")
        self._watch(self._alone)
        self._judge_services("at the end")
        self._invariants()
        end_process(self._traffic, signal.SIGTERM)
        self._sum_up()
        self._report.seconds = time.monotonic() - begin

    # -- what it stands on

    def _separate(self) -> None:
        """Give the monolith what the services' application needs, and record it as it is then."""
        with storefront.connect(self._url) as connection:
            connection.execute(_text("monolith.sql").encode())
            self._report.tables = len(storefront.tables(connection))
            row = connection.execute("SELECT max(id) FROM payments").fetchone()
            last = connection.execute("SELECT max(id) FROM refunds").fetchone()
        self._last = (row[0] if row else 0) or 0, (last[0] if last else 0) or 0
        oracle.take(self._url, self._folder / "before")
        self._homes = self._survey()

    def _survey(self) -> dict[str, list[str]]:
        """Return each service's tables, as the survey of the split finds them."""
        found = self._splitter().survey()
        homes: dict[str, list[str]] = {service: [] for service in (*SERVICES, "rest")}
        for table, home in found.tables.items():
            homes[home].append(table.removeprefix("public."))
        self._copies = found.copies
        self._screen.say(f"  surveyed: {len(found.crossing)} foreign keys will cross the services")
        return homes

    def _splitter(self) -> Splitter:
        from segue import wiring
        from segue.services import splits

        return splits.Splitter(self._store, self._settings, splits.read(str(self._file)), wiring.parts().database)

    def _open_services(self) -> None:
        from segue.embedded import Cluster

        self._screen.doing("starting the services' server, with a database for each")
        cluster: Cluster = Cluster(self._folder / "services", database="services", options=self.options, tcp=self.tcp)
        self._stack.enter_context(cluster.use())
        self._places = {MONOLITH: self._url}
        with storefront.connect(cluster.url()) as connection:
            secret = connection.pgconn.encrypt_password(
                self._password.encode(), storefront.APPLICATION.encode(), b"scram-sha-256"
            ).decode()
            connection.execute(f"CREATE ROLE {storefront.APPLICATION} LOGIN PASSWORD '{secret}'".encode())
            for service in SERVICES:
                connection.execute(f"CREATE DATABASE {service}".encode())
        for service in SERVICES:
            self._places[f"{service}-db"] = cluster.url(service)
            self._add_environment(f"{service}-db", cluster.url(service))

    def _build(self) -> None:
        """Give each service its tables, empty, in the structure that it wants."""
        for service in SERVICES:
            with storefront.connect(self._places[f"{service}-db"]) as connection:
                connection.execute(self._structure(service))
                connection.execute("SET search_path = public")
                connection.execute(_text(f"{service}.sql").encode())

    def _structure(self, service: str) -> bytes:
        """Return the SQL of a service's tables, as pg_dump writes it, without foreign keys to others' tables."""
        tables = self._homes[service]
        own = [*tables, *(name for copy in self._copies if copy.domain == service for name in copy.tables)]
        own += _VIEWS.get(service, ())
        dumped = self._dump(*[f"--table-and-children=public.{name.removeprefix('public.')}" for name in own])
        dumped = re.sub(_KEY, lambda match: match[0] if match[1] in tables else "", dumped)
        functions = [
            definition
            for (definition,) in self._eye.execute(
                "SELECT DISTINCT pg_get_functiondef(t.tgfoid) FROM pg_trigger t"
                " WHERE NOT t.tgisinternal AND t.tgrelid = ANY (%s::regclass[])",
                ([f"public.{name}" for name in tables],),
            )
        ]
        types = (files("segue.demo") / "sql" / "01_types.sql").read_text()
        return "\n".join([types, *(f"{text};" for text in functions), dumped]).encode()

    def _relay(self) -> None:
        """Make an outbox where payments and orders are and will be, and bring what it gets to the analytics service."""
        from segue import wiring
        from segue.model.outbox import Subscription
        from segue.services.outbox import Outboxes

        self._outboxes = Outboxes(self._store, self._settings, wiring.parts().database)
        for place in _PUBLISHING:
            self._outboxes.create(place, [storefront.APPLICATION])
            name = place.removesuffix("-db")
            self._outboxes.subscribe(Subscription(name, _TOPICS, "sales.hear"), place, "analytics-db", now=False)
            ends = ["--from", place, "--to", "analytics-db"]
            self._start(
                [sys.executable, "-m", "segue", "outbox", "relay", name, *ends, "--follow", "--poll", "500ms"],
                self._folder / f"relay-{name}.log",
                {},
            )

    def _variables(self) -> dict[str, str]:
        return {
            "STOREFRONT_URLS": json.dumps({place: self._as_application(url) for place, url in self._places.items()})
        }

    # -- what it does

    def _split(self) -> None:
        plan = self._folder / "plan.yaml"
        plan.write_text(self._run("move", "plan", str(self._file)))
        self._report.document = self._run("plan", "document", str(plan))
        (self._folder / "plan.md").write_text(self._report.document)
        self._screen.doing("splitting it by a plan of a phase for each service, while the application works")
        self._must(self._follow(["run", str(plan), "--env", MONOLITH]), "the split")
        steps = self._status()["steps"]
        self._report.steps = [{name: step[name] for name in ("name", "kind", "status", "seconds")} for step in steps]
        for service in (step["name"].removeprefix("copy-") for step in steps if step["name"].startswith("copy-")):
            own = [step for step in steps if step["name"].endswith(f"-{service}")]
            self._marks.append((service, own[0]["started_at"].timestamp()))
            self._report.phases.append(
                {"name": service, "seconds": round(sum(step["seconds"] or 0 for step in own), 2), "pause_ms": 0.0}
            )
        copied = {step["name"].removeprefix("copy-"): step for step in steps if step["name"].startswith("copy-")}
        self._report.projection = self._project(copied)

    def _project(self, copied: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Say how long 500 GB would take, by the line through what the services took for what they had to copy.

        A service of no rows takes its seconds too (slots, subscriptions, triggers); they do not grow with the rows.
        """
        points = []
        for service, step in copied.items():
            with storefront.connect(self._places[f"{service}-db"]) as connection:
                row = connection.execute(_MOVED_BYTES).fetchone()
            points.append((int(row[0]) if row else 0, float(step["seconds"] or 0.1)))
        most, seconds = max(points)
        slope, fixed = statistics.linear_regression(*zip(*points, strict=True))
        if slope <= 0 or fixed < 0:
            # The machine was busy with something else; then nothing is taken as not growing.
            slope, fixed = seconds / most, 0.0
        hours = (len(points) * fixed + GOAL_BYTES * slope) / 3600
        self._screen.say(
            f"  copied at {size(int(1 / slope))} a second, keys and indexes included, "
            f"and {fixed:.1f} s for each service beside"
        )
        return {
            "hours": round(hours, 2),
            "fits_4h": hours <= GOAL_HOURS,
            "bytes_per_second": round(1 / slope),
            "seconds_beside": round(fixed, 2),
        }

    def _back_and_forth(self) -> None:
        """Bring one service back to the monolith, with what was written meanwhile, and out again."""
        for what, command, place in (
            ("reverse", "reverse", MONOLITH),
            ("again", "switch", f"{BACK}-db"),
        ):
            words = "back to the monolith" if what == "reverse" else "to its own database again"
            self._screen.doing(f"the {BACK} service goes {words}")
            began = time.time()
            self._marks.append((f"{BACK} {what}", began))
            done = self._asked("move", command, BACK)
            with storefront.connect(self._url) as connection:
                connection.execute("UPDATE service_routing SET database = %s WHERE service = %s", (place, BACK))
            took = round(time.time() - began, 2)
            self._report.phases.append({"name": f"{BACK} {what}", "seconds": took, "pause_ms": 0.0})
            self._report.reverse[what] = {"stopped_ms": done.get("stopped_ms"), "seconds": took}
            self._watch(self._alone / 2)
            if what == "reverse":
                self._judge_services("one back", {BACK: MONOLITH})
        moments = ("one back",)
        self._report.reverse.update(service=BACK, ok=all(self._report.verdicts[moment].ok for moment in moments))

    # -- what it sees

    def _judge_services(self, moment: str, elsewhere: dict[str, str] | None = None) -> None:
        """Stop the traffic between two of its doings, and compare every table of every database."""
        self._screen.doing("the application pauses, and every row of all databases is compared")
        whole = oracle.Verdict()
        with self._paused():
            for service in (*SERVICES, "rest"):
                place = (elsewhere or {}).get(service, f"{service}-db" if service in SERVICES else MONOLITH)
                verdict = oracle.judge(
                    self._places[place],
                    self._folder / "before",
                    self._journals[-1],
                    tables=set(self._homes[service]) - {"service_routing"},
                    invariants=_INVARIANTS.get(service, ()),
                )
                self._add(whole, verdict, first=service == SERVICES[0])
                if service in SERVICES:
                    self._report.services[service] = {
                        "tables": len(self._homes[service]),
                        "rows": verdict.rows,
                        "equal": verdict.data_ok,
                    }
        self._tell(moment, whole)

    def _add(self, whole: oracle.Verdict, part: oracle.Verdict, *, first: bool) -> None:
        """Add one database's verdict; what the application itself met is in each of them, and counts once."""
        for name in ("lost", "duplicated", "rows"):
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
        said = sum("wrong" in line for line in journal.read(self._journals[-1]))
        whole.wrong += part.wrong - (0 if first else said)
        if first:
            whole.acknowledged, whole.errors, whole.fenced = part.acknowledged, part.errors, part.fenced
        for line in part.details:
            if line not in whole.details:
                whole.tell(line)

    def _invariants(self) -> None:
        """Ask what no server can enforce any more: the foreign keys that were cut, and what two services share."""
        self._screen.doing("what crosses the services is looked at: foreign keys that were cut, payments, facts")
        with self._paused():
            found = self._report.invariants
            probed = self._splitter().probe()
            found.update({key.name: seen is None or seen.holds for key, seen in probed})
            found.update(sharing.look(self._copies, self._places))
            self._brought()
            with storefront.connect(self._places["customer-db"], autocommit=False) as customer:
                customer.execute("CREATE TEMP TABLE payments (order_id bigint, status text, amount_cents bigint)")
                self._bring("payment-db", "SELECT order_id, status, amount_cents FROM payments", customer, "payments")
                row = customer.execute(oracle.INVARIANTS[_PAID].encode()).fetchone()
                found["paid orders have a payment"] = row is not None and row[0] == 0
            with storefront.connect(self._places["analytics-db"], autocommit=False) as analytics:
                analytics.execute("CREATE TEMP TABLE said (order_id bigint, direction smallint, cents bigint)")
                analytics.execute(f"CREATE TEMP VIEW told AS {_TOLD}".encode())
                said = _SAID.format(mark=int(self._last[0]), last=int(self._last[1]))
                self._bring("payment-db", said, analytics, "said")
                row = analytics.execute(_FACTS.encode()).fetchone()
                found["facts are what was paid"] = row is not None and row[0] == 0
        broken = [name for name, holds in found.items() if not holds]
        self._screen.say(f"  {len(found)} invariants, {', '.join(broken) or 'all'} {'broken' if broken else 'hold'}")

    def _brought(self) -> None:
        """Wait until the relays have brought everything."""
        limit = time.monotonic() + 30
        for place in _PUBLISHING:
            while waiting := sum(one.waiting for one in self._outboxes.standing(place).consumers):
                if time.monotonic() > limit:
                    raise InternalError(f"the relay from {place} has {waiting} events left")
                time.sleep(0.1)

    def _bring(self, place: str, query: str, to: Any, table: str) -> None:
        """Copy the rows of a query to a table of another database."""
        with (
            storefront.connect(self._places[place]) as source,
            source.cursor().copy(f"COPY ({query}) TO STDOUT".encode()) as rows,
            to.cursor().copy(f"COPY {table} FROM STDIN".encode()) as copy,
        ):
            for block in rows:
                copy.write(block)

    def _sum_up(self) -> None:
        """Take the pauses and latencies of each phase from what the application has noted."""
        ends = [*(moment for _, moment in self._marks[1:]), float("inf")]
        latencies = self._tail.look().latencies
        waits = [
            (float(line["t"]), str(line["k"]).partition(".")[0], float(line["f"]))
            for line in journal.read(self._journals[-1])
            if "f" in line
        ]
        for (name, begin), end in zip(self._marks, ends, strict=True):
            self._report.latency[name] = oracle.percentiles(latencies, begin, end)
            own = [wait for at, service, wait in waits if begin - 5 <= at < end and service == name.partition(" ")[0]]
            for phase in self._report.phases:
                if phase["name"] == name:
                    phase["pause_ms"] = round(max(own, default=0.0), 1)

    # -- how it asks

    def _asked(self, *words: str, fine: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """Run a command of Segue and return the JSON object that it prints."""
        found: dict[str, Any] = json.loads(self._run(*words, "--json", fine=fine))
        return found

    def _run(self, *words: str, fine: tuple[int, ...] = (0,)) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "segue", *words], env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode not in fine:
            raise InternalError(
                f"segue {' '.join(words)} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}"
            )
        return done.stdout


def _text(name: str) -> str:
    return (files("segue.demo") / "split" / name).read_text()
