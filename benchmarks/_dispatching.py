"""A process that works through batches until none is left: `python -m benchmarks._dispatching CONTENDER URL WORDS`.

It says "ready", and begins when a line comes in; at its end it prints how many batches it did.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import psycopg

# The usual way to take work from a table, and the usual trap avoided: without MATERIALIZED it may claim many.
CLAIM = """
with next as materialized (
    select id from job where state = 'pending' order by id limit 1 for update skip locked
)
update job set state = 'claimed', owner = %s, claimed_at = clock_timestamp() from next
where job.id = next.id returning job.id
"""
DONE = "update job set state = 'done', done_at = clock_timestamp() where id = %s"


def bare_loop(url: str, owner: str) -> int:
    """Claim a row, mark it done, until there is none: one statement and one commit each."""
    done = 0
    with psycopg.connect(url, autocommit=True) as connection:
        # As a chunk is committed: nothing waits for the disk.
        connection.execute("set synchronous_commit = off")
        _ready()
        while (row := connection.execute(CLAIM, [owner]).fetchone()) is not None:
            connection.execute(DONE, [row[0]])
            done += 1
    return done


def segue(url: str, owner: str, words: dict[str, Any]) -> int:
    """Labour on what is offered, as a copy slot of a worker does."""
    from segue.databases.postgresql import DATABASE
    from segue.ports import EffectKey, Patience
    from segue.rows.labour import Labourer
    from segue.steps.backfill import STEP, BackfillParams

    key = EffectKey(**words["key"])
    target = DATABASE.join_target(
        url, execution=key.execution, holder=owner, fence=words["fence"], schema=words["schema"]
    )
    try:
        shared = STEP.shared(BackfillParams(**words["params"]), target, key, Patience(60, 3600))
        labourer = Labourer(shared, owner, patience=3600, stop=threading.Event(), leave_after=0)
        _ready()
        labourer.go()
        return labourer.finished
    finally:
        target.close()


def _ready() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    contender, url, owner, words = sys.argv[1:]
    print(bare_loop(url, owner) if contender == "bare_loop" else segue(url, owner, json.loads(words)), flush=True)
