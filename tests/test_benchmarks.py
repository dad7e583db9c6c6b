"""The benchmarks run, and say what they measured in the form that they promise; no test judges how fast anything is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fix_targets import until

from benchmarks._rounds import Result

ROOT = Path(__file__).parents[1]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks", *words]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)


@pytest.fixture
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the folder in which a benchmark makes its own; sockets below it need a short path."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="sb-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


@pytest.mark.slow
def test_backfill_says_what_it_measured(scratch: Path) -> None:
    done = run("backfill", "--json", "--rounds", "1", "--scale", "0.01")
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    assert next(iter(content)) == "segue"
    assert (content["segue"], content["name"], content["rounds"]) == (1, "backfill", 1)
    assert set(content["results"]) == {"segue", "plain_loop", "one_update"}
    for result in content["results"].values():
        assert len(result["seconds"]) == 1
        assert result["median"] == result["seconds"][0] > 0
        assert result["rows_per_s"] > 0
    assert set(content["ratios"]) == {"segue/plain_loop", "segue/one_update"}
    assert 0 < content["values"]["peak_memory_mb"] < 200
    assert {"one_row_seconds", "table_growth_segue", "wal_bytes_segue"} <= set(content["values"])
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_dispatch_says_what_it_measured(scratch: Path) -> None:
    done = run("dispatch", "--json", "--rounds", "1", "--scale", "0.02")
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    assert set(content["results"]) == {"segue", "segue_one_by_one", "bare_loop"}
    assert content["ratios"]["segue/bare_loop"] > 0
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_job_says_what_it_measured(scratch: Path) -> None:
    done = run("job", "--json", "--rounds", "1", "--scale", "0.01")
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    assert set(content["ratios"]) == {"segue/insert_select", "segue_two_workers/insert_select"}
    assert 0 < content["values"]["peak_memory_mb"] < 200
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_copy_says_what_it_measured(scratch: Path) -> None:
    if shutil.which("pgcopydb") is None:
        pytest.skip("needs pgcopydb: apt-get install pgcopydb")
    done = run("copy", "--json", "--rounds", "1", "--scale", "0.01")
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    assert set(content["ratios"]) == {"segue/pgcopydb", "segue/pg_dump_restore"}
    assert 0 < content["values"]["peak_memory_mb"] < 200
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_apply_says_what_it_measured(scratch: Path) -> None:
    done = run("apply", "--json", "--rounds", "1", "--scale", "0.01")
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    assert set(content["ratios"]) == {"segue/native_apply"}
    assert 0 < content["values"]["peak_memory_mb"] < 200
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_verify_says_what_it_measured(scratch: Path) -> None:
    done = run("verify", "--json", "--rounds", "1", "--scale", "0.01")
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    assert set(content["ratios"]) == {"segue/reladiff", "segue_text/reladiff_text", "segue_ten/reladiff_ten"}
    assert 0 < content["values"]["peak_memory_mb"] < 200
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_lint_says_what_it_measured(scratch: Path) -> None:
    done = run("lint", "--json", "--rounds", "1", "--scale", "0.05")
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    assert set(content["ratios"]) == {"segue/squawk", "segue_one_file/squawk_one_file"}
    assert {"start_seconds_segue", "cpu_seconds_squawk"} <= set(content["values"])
    assert list(scratch.iterdir()) == []


def test_interrupted_benchmark_leaves_nothing(scratch: Path) -> None:
    process = subprocess.Popen(
        command("backfill", "--rounds", "1", "--scale", "0.01"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        server = until(lambda: next(scratch.rglob("postmaster.pid"), None), 150)
        pid = int(until(lambda: server.read_text().split(), 20)[0])
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert list(scratch.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("words", [["nothing"], [], ["backfill", "--rounds", "0"], ["backfill", "--what"]])
def test_wrong_words_are_refused_with_the_names(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 64
    assert done.stdout == ""
    if "backfill" not in words:
        assert "backfill" in done.stderr


def test_ratio_is_of_the_medians() -> None:
    result = Result("x", 3, 100, [("a", "b")], {"a": [1.0, 2.0, 9.0], "b": [4.0, 4.0, 5.0]}, {"peak": 1.0})
    assert result.as_json()["ratios"] == {"a/b": 0.5}
    assert result.as_json()["results"]["a"] == {"seconds": [1.0, 2.0, 9.0], "median": 2.0, "rows_per_s": 50.0}
    assert "0.25 to 1.80" in result.as_text()
