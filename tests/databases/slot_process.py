"""A process that drives a backfill or a job, or helps with one: `python slot_process.py JSON`; tests kill it.

`kill`: the journal point at which it ends itself with -9, and the how-manieth pass of it. `lease`: how long a labourer
may be silent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fix_targets import Run

from segue.databases.postgresql import DATABASE, lease
from segue.databases.postgresql.target import PostgresTarget
from segue.engine import journal
from segue.errors import FenceLost, TargetUnreachable
from segue.ports import EffectKey, NotOffered, Patience
from segue.rows.labour import Labourer
from segue.steps import backfill, data_job


def main() -> None:
    words = json.loads(sys.argv[1])
    lease.LEASE_SECONDS = words["lease"]
    wanted, left = words["kill"] or ("", 0)
    lock = threading.Lock()

    def point(name: str) -> None:
        nonlocal left
        with lock:
            left -= name == wanted
            if name == wanted and left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    journal.point = point
    kind = data_job.STEP if words["params"].get("kind") == "data-job" else backfill.STEP
    params = kind.Params(**words["params"])
    if words["fence"] is None:
        target = PostgresTarget(words["url"], execution=words["execution"], holder=words["owner"], schema="public")
        run = Run(target, params, direction=words["direction"])
        kind.run(run) if words["direction"] == "forward" else kind.undo(run)
        target.close()
        return
    key = EffectKey(words["execution"], "plan", "hash", params.name, words["direction"], 0)
    try:
        joined = DATABASE.join_target(
            words["url"], execution=key.execution, holder=words["owner"], fence=words["fence"], schema="public"
        )
        shared = kind.shared(params, joined, key, Patience(60, 60))
        labourer = Labourer(shared, words["owner"], patience=60, stop=threading.Event(), leave_after=words["leave"])
        labourer.go()
    except (FenceLost, NotOffered, TargetUnreachable) as error:
        print(type(error).__name__)
    else:
        print(labourer.finished)


main()
