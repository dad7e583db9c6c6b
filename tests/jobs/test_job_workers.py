"""Labourers in several processes share a data job; one is killed, and every row is written or rejected once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fix_targets import Background, Open, Run, rows, until, value
from fix_transfers import CENTS, fill_old, rejected

from segue.databases.postgresql import lease
from segue.steps.data_job import STEP, DataJobParams

PROCESS = Path(__file__).parents[1] / "databases" / "slot_process.py"
FIELDS: dict[str, Any] = {
    "name": "job",
    "kind": "data-job",
    "source": "old",
    "target": "new",
    "set": CENTS,
    "batch": {"size": 20, "max": 20},
    "workers": 3,
    "continue_on_error": True,
}


LIFT = "def lift(rows): return [{'cents': round(float(row['amount']) * 100)} for row in rows]"
CALL = {"python": "lift.py:lift", "gives": ["cents"], "contents": {"lift.py": LIFT}}


@pytest.mark.parametrize("fields", [FIELDS, {**FIELDS, "set": {}, "transform": CALL}], ids=["sql", "function"])
def test_job_loses_nothing_when_a_labourer_is_killed_beside_others(
    database: str, open_target: Open, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2)
    fill_old(database, 2000, 100)
    target = open_target(database, "e")
    run = Run(target, DataJobParams(**fields))
    run.hired = lambda wanted: 0  # all is done elsewhere
    driver = Background(lambda: STEP.run(run))
    until(lambda: run.record.batches)
    words = {"url": database, "fence": target.fence, "lease": 2, "execution": "e", "direction": "forward"}
    words |= {"params": fields, "leave": 5}

    def labour(owner: str, kill: tuple[str, int] | None) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, PROCESS, json.dumps({**words, "owner": owner, "kill": kill})])

    assert labour("one", ("chunk-before-commit", 5)).wait(60) == -9
    helpers = [labour(owner, None) for owner in ("two", "three")]
    driver.result()
    assert [helper.wait(30) for helper in helpers] == [0, 0]
    assert value(database, "SELECT count(*) FROM segue.chunk WHERE worker = 'one'") > 0
    assert rows(database, "SELECT count(*), count(DISTINCT id) FROM new") == [(1980, 1980)]
    assert [key for key, _ in rejected(database)] == list(range(100, 2001, 100))


def test_function_ends_with_the_process_that_runs_its_job(database: str, tmp_path: Path) -> None:
    fill_old(database, 10)
    told = tmp_path / "pids"
    slow = (
        "import os, subprocess, time\n"
        "def lift(rows):\n"
        "    other = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"    open({str(told)!r}, 'w').write(f'{{os.getpid()}} {{other.pid}} ')\n"
        "    time.sleep(600)\n"
    )
    call = {**CALL, "contents": {"lift.py": slow}, "timeout": 600}
    words = {"url": database, "fence": None, "lease": 10, "execution": "e", "direction": "forward", "owner": "one"}
    words |= {"params": {**FIELDS, "set": {}, "transform": call}, "kill": None}
    with subprocess.Popen([sys.executable, PROCESS, json.dumps(words)]) as process:
        until(lambda: told.exists() and len(told.read_text().split(" ")) == 3)
        process.kill()
    pids = [int(word) for word in told.read_text().split()]
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
