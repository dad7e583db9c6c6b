"""One change after another on a busy table, killed, cancelled, swapped, taken back: nothing is lost, nothing is left.

The short form goes through each fate once. The long one draws fates for half an hour, or for as many seconds as
SEGUE_SOAK_SECONDS says; SEGUE_SOAK_SEED draws others.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from fix_oracle import Oracle, Shape
from fix_process import Segue
from fix_shops import Shops
from fix_standbys import Server
from fix_targets import rows, run_sql, until, value

from segue.services import changes

SECONDS = float(os.environ.get("SEGUE_SOAK_SECONDS", "1800"))
SEED = int(os.environ.get("SEGUE_SOAK_SEED", "1"))
#: What the tool may hold at once, in kB (2^10 bytes), whatever it does.
MEMORY_KB = 150_000
#: Each of these is another shape of the same rows, there and back again.
ALTERS = {
    "n": ("ALTER n TYPE bigint", "ALTER n TYPE int"),
    "note": ("ALTER note TYPE varchar", "ALTER note TYPE text"),
    "k1": ("ALTER k1 TYPE bigint", "ALTER k1 TYPE int"),
}
FATES = ("through", "killed", "cut", "cancelled", "postponed")
LEFT = """
select 'schema ' || nspname from pg_namespace where nspname like 'segue\\_%'
union all select 'trigger ' || tgname from pg_trigger where tgname like 'segue%'
union all select 'slot ' || slot_name from pg_replication_slots
union all select 'publication ' || pubname from pg_publication
union all select 'table ' || relname from pg_class join pg_namespace n on n.oid = relnamespace
    where n.nspname = 'public' and relkind = 'r' and relname <> 't'
"""


@dataclass
class Soak:
    """A table under eight writers, the command line beside it, and what has become of each change."""

    segue: Segue
    shops: Shops
    url: str
    oracle: Oracle
    chance: random.Random
    fates: Counter[str] = field(default_factory=Counter)
    peak: int = 0

    def round(self, strategy: str, fate: str, after: str) -> None:
        """Begin a change, have it meet its fate, and take it back or clean up after it."""
        before = self.kinds()
        column = self.chance.choice(sorted(ALTERS))
        alter = ALTERS[column]["bigint" in before[column] or "varying" in before[column]]
        words = ["change", "start", "t", alter, "--env", "shop", "--strategy", strategy, "--json"]
        if fate == "postponed":
            words.append("--postpone-cutover")
        elif fate == "cut":
            words += ["--workers", "3"]
        print(f"{strategy}: {alter}: {fate}, {after}", file=sys.stderr, flush=True)
        swapped = getattr(self, f"_{fate}")(words)
        self.fates[f"{strategy} {fate} {after}"] += 1
        identity = self.execution()
        if not swapped or after == "back":
            self._ends(["rollback", identity, "--yes", "--json"], kills=fate == "killed")
            assert self.kinds() == before
        else:
            assert self.kinds() != before
            self.segue("change", "cleanup", identity, "--env", "shop", "--now", "--yes").expect(0)
        assert rows(self.url, LEFT) == []

    # -- fates: each returns whether the change was swapped

    def _through(self, words: list[str]) -> bool:
        self._ends(words)
        return True

    def _killed(self, words: list[str]) -> bool:
        self._ends(words, kills=True)
        return True

    def _cut(self, words: list[str]) -> bool:
        """Lose sessions again and again."""
        self._ends(words, meanwhile=self._cut_sessions)
        return True

    def _cancelled(self, words: list[str]) -> bool:
        """Cancel it at any moment; it may have come through by then."""
        latest = self._latest()
        process = self.segue.start(*words)
        until(lambda: self._latest() != latest or process.poll() is not None, 60)
        time.sleep(self.chance.random() * 3)
        self.segue("cancel", self.execution())
        out, err = process.communicate(timeout=300)
        assert process.returncode in (0, 1, 2, 3, 4), (out, err)
        return process.returncode == 0

    def _postponed(self, words: list[str]) -> bool:
        """Let it wait for a while, then have it swapped."""
        process = self.segue.start(*words)
        until(lambda: self._waiting() or process.poll() is not None, 300)
        time.sleep(self.chance.random() * 3)
        self.segue("change", "cutover", self.execution()).expect(0)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, (out, err)
        return True

    def _ends(
        self, words: list[str], *, kills: bool = False, meanwhile: Callable[[subprocess.Popen[str]], None] | None = None
    ) -> None:
        """Have a command end well, killed up to three times on its way."""
        for left in (*range(self.chance.choice((1, 2, 3)) if kills else 0), None):
            process = self.segue.start(*words)
            with self._measured(process):
                if left is not None:
                    # Longer than it takes at times: then there was no kill.
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(0.5 + self.chance.random() * 6)
                    process.kill()
                elif meanwhile is not None:
                    meanwhile(process)
                out, err = process.communicate(timeout=300)
            if process.returncode == 0:
                return
            assert process.returncode == (-9 if left is not None else 0), (words, process.returncode, out, err)

    def _cut_sessions(self, process: subprocess.Popen[str]) -> None:
        """End single sessions of the tool's; the first of them once it works."""
        for _ in range(3):
            with suppress(subprocess.TimeoutExpired):
                process.wait(1 + self.chance.random() * 2)
            if process.poll() is None:
                run_sql(
                    self.url,
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() "
                    "and application_name like 'segue%' order by random() limit 1",
                )

    @contextmanager
    def _measured(self, process: subprocess.Popen[str]) -> Iterator[None]:
        """Watch what a process holds in memory."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.2):
                with suppress(OSError):
                    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                        if line.startswith("VmHWM:"):
                            self.peak = max(self.peak, int(line.split()[1]))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    # -- what there is

    def kinds(self) -> dict[str, str]:
        """Return the type of each column."""
        return dict(
            rows(
                self.url,
                "select attname, format_type(atttypid, atttypmod) from pg_attribute "
                "where attrelid = 'public.t'::regclass and attnum > 0 and not attisdropped",
            )
        )

    def execution(self) -> str:
        """Return the latest change's execution."""
        return str(self._latest())

    def _latest(self) -> str | None:
        with self.shops.store.session() as session:
            found = changes.listed(session, limit=1)
            return str(found[0]["execution"]) if found else None

    def _waiting(self) -> bool:
        with self.shops.store.session() as session:
            found = changes.listed(session, limit=1)
            return bool(found and found[0]["waiting"])


@contextmanager
def disturbed(url: str, seed: int) -> Iterator[None]:
    """Do beside the block what goes on in a database: idle transactions, VACUUM, DDL elsewhere, long reports."""
    over = threading.Event()
    chance = random.Random(seed)
    acts: tuple[tuple[str, ...], ...] = (
        ("begin", "select 1 from t limit 1", "idle"),
        ("begin", "update t set n = n where false", "idle", "rollback"),
        ("vacuum t",),
        ("analyze t",),
        ("create temp table aside as select * from t limit 100", "drop table aside"),
        ("begin isolation level repeatable read", "select count(*) from t", "idle"),
        ("checkpoint",),
    )
    failed: list[str] = []

    def disturb() -> None:
        while not over.is_set():
            with psycopg.connect(url, autocommit=True) as connection:
                for act in chance.choice(acts):
                    if act == "idle":
                        over.wait(chance.random() * 2)
                        continue
                    try:
                        connection.execute(act.encode())
                    except psycopg.Error as error:
                        failed.append(f"{act}: {error}")
            over.wait(chance.random())

    threads = [threading.Thread(target=disturb, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failed == []


@pytest.fixture
def soak(segue: Segue, shops: Shops, logical_server: Server) -> Soak:
    """Give a table of the size that a second or two of copying take."""
    url = logical_server.database()
    oracle = Oracle(url, Shape(rows=2000), seed=SEED, pause=0.05)
    oracle.fill()
    shops.open("shop", url)
    return Soak(segue, shops, url, oracle, random.Random(SEED))


def judged(soak: Soak) -> None:
    """See that the table is what was acknowledged."""
    verdict = soak.oracle.judge()
    assert verdict.right, verdict
    assert soak.peak < MEMORY_KB


def test_changes_that_meet_any_fate_lose_nothing_and_leave_nothing(soak: Soak) -> None:
    with soak.oracle.writing(), disturbed(soak.url, SEED):
        for strategy, fate, after in (
            ("shadow-table", "killed", "back"),
            ("ghost", "cut", "cleanup"),
            ("shadow-table", "cancelled", "back"),
        ):
            soak.round(strategy, fate, after)
    judged(soak)
    assert value(soak.url, "select count(*) from t") > 0


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 900)
def test_half_an_hour_of_changes_under_eight_writers_loses_nothing_and_leaves_nothing(soak: Soak) -> None:
    end = time.monotonic() + SECONDS
    soak.oracle.errors.clear()
    while time.monotonic() < end:
        # Otherwise the writers would draw the same values once more.
        soak.oracle.seed = soak.chance.randrange(1 << 30)
        with ExitStack() as stack:
            stack.enter_context(soak.oracle.writing())
            stack.enter_context(disturbed(soak.url, soak.chance.randrange(1 << 30)))
            for _ in range(5):
                if time.monotonic() < end:
                    strategy = soak.chance.choice(("shadow-table", "shadow-table", "ghost"))
                    soak.round(strategy, soak.chance.choice(FATES), soak.chance.choice(("back", "back", "cleanup")))
        judged(soak)
    print(dict(soak.fates), soak.oracle.done, f"{soak.peak} kB", file=sys.stderr)
