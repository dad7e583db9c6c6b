"""`segue demo`: the whole way, and that nothing of it stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from fix_columns import never_filled, unexplained

from segue.demo import oracle, show
from segue.demo.online import OnlineShow
from segue.demo.splitting import SplitShow
from segue.embedded import Cluster


@pytest.mark.timeout(180)
def test_demo_shows_that_nothing_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert show.demo(scale=0.01, json_output=True, rate=80, alone=1.0) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report) == ["segue", "ok", "seconds", "tables", "steps", "traffic", "latency_ms", "resume", "rollback"]
    assert report["ok"] is True
    assert report["tables"] >= 52
    assert len(report["steps"]) >= 12
    assert all(list(step) == ["name", "kind", "status", "seconds"] for step in report["steps"])
    assert report["traffic"].pop("acknowledged") > 100
    assert report["traffic"] == {"lost": 0, "duplicated": 0, "wrong": 0, "errors": 0}
    assert list(report["latency_ms"]) == ["before", "during", "after"]
    assert report["latency_ms"]["during"]["p50"] > 0
    assert report["resume"]["killed"] is True
    assert report["resume"]["recovered_s"] > 0
    assert report["rollback"] == {"schema_equal": True, "data_equal": True}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_column_of_the_store_stays_null_in_all_demos(capsys: pytest.CaptureFixture[str]) -> None:
    kept = []
    try:
        for scene in (show.Show, OnlineShow, SplitShow):
            assert show.demo(scale=0.01, json_output=True, rate=50, alone=1.0, keep=True, scene=scene) == 0
            kept.append(Path(capsys.readouterr().err.split("kept in ")[1].strip()))
        with contextlib.ExitStack() as stack:
            stores = [stack.enter_context(Cluster(folder / "home" / "store").use()).url() for folder in kept]
            assert unexplained(never_filled(*stores)) == set()
    finally:
        for folder in kept:
            show.remove(folder)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("word", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(word: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "segue", "demo", "--scale", "0.001"],
        env={**os.environ, "TMPDIR": tempfile.gettempdir()},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "runs alone" in line:
            break
    time.sleep(1)
    process.send_signal(word)
    _, words = process.communicate(timeout=30)
    assert process.returncode == 130, words
    assert "stopped the demo" in words
    name = f"segue-demo-{process.pid}-"
    assert not list(Path(tempfile.gettempdir()).glob(f"{name}*"))
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if name.encode() in _read(path)]


def test_a_report_is_not_ok_unless_everything_was_shown() -> None:
    report = show.Report(verdicts={"applied": oracle.Verdict()}, killed=True, recovered=1.0, schema_equal=True)
    assert report.ok
    for name, value in (("killed", False), ("recovered", None), ("schema_equal", False), ("verdicts", {})):
        before = getattr(report, name)
        setattr(report, name, value)
        assert not report.ok, name
        setattr(report, name, before)
    report.verdicts["applied"].lost = 1
    assert not report.ok


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
