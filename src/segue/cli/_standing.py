"""How an execution stands, in the same words for `segue status` and its live view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segue.cli import _changes, output
from segue.cli._throttle import latency_words, pace_words
from segue.model.quantities import count, duration, size

#: The sign before a step's name and its style, by how it stands.
MARKS = {
    "completed": ("✓", "green"),
    "undone": ("↶", "green"),
    "failed": ("✗", "red"),
    "warned": ("!", "yellow"),
    "skipped": ("-", "dim"),
    "running": ("▸", "bold"),
    "undoing": ("▸", "bold"),
    "begun": ("▸", "dim"),
    "waiting": ("…", "yellow"),
    "pending": ("·", "dim"),
}


def status(item: Mapping[str, Any]) -> str:
    """Return an execution's status, with what is asked of it and which way it goes."""
    if item["abandoned"]:
        return "interrupted"
    if item["requested"] and item["driven_by"]:
        return f"{item['status']} ({item['requested']} requested)"
    back = item["direction"] == "backward" and item["status"] not in ("rolled-back", "cancelled")
    return f"{item['status']} (rolling back)" if back else str(item["status"])


def driver(item: Mapping[str, Any]) -> str | None:
    """Return who works on an execution now, or whose it is while nobody does."""
    if item["worker"]:
        return f"worker {item['worker']}"
    if item["driven_by"]:
        return str(item["driven_by"])
    if item["handed_over"] and item["status"] in ("pending", "waiting", "running"):
        return "nobody now; handed over to the workers"
    return None


def helpers(item: Mapping[str, Any]) -> str | None:
    """Return the workers whose copy slots help."""
    said = [
        f"{one['worker']} ({one['step']}{', ' + str(one['slots']) + ' slots' if one['slots'] > 1 else ''})"
        for one in item["helpers"]
    ]
    return ", ".join(said) or None


def waiting(item: Mapping[str, Any]) -> str | None:
    """Return what an execution waits for, and when it is looked at again."""
    if item["status"] != "waiting":
        return None
    words = str((item["waiting_for"] or {}).get("message") or "nobody has said for what")
    due = item["due_at"]
    kind = (item["waiting_for"] or {}).get("kind")
    return words if due is None or kind == "worker" else f"{words}; looked at again at {due:%Y-%m-%d %H:%M:%S}Z"


def kept_out(item: Mapping[str, Any]) -> str | None:
    """Return since when the application waits behind its fence, or for how long it did."""
    if item["fenced_at"] is not None:
        since, until = (f"{item[name]:%Y-%m-%d %H:%M:%S}Z" for name in ("fenced_at", "fenced_until"))
        return f"kept out since {since}, until {until} at the latest"
    stopped = (item["metrics"] or {}).get("write_stop_s")
    return f"was kept out for {whole_time(stopped)}" if stopped else None


def throttle(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the throttle stands; empty while nobody works on the execution."""
    return ((item["metrics"] or {}).get("throttle") or {}) if item["driven_by"] else {}


def pace(item: Mapping[str, Any]) -> str | None:
    """Return how fast data work goes, and why."""
    found = throttle(item)
    if not found:
        return None
    return pace_words(found) + (f": {found['reason']}" if found["reason"] else "")


def application(item: Mapping[str, Any]) -> str | None:
    """Return the application's latency as it is measured."""
    return latency_words(throttle(item).get("latency") or {})


def readings(item: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the throttle's readings of one sort: `replica`, `slot`, `lock waits`."""
    return [one for one in throttle(item).get("readings", []) if one["name"] == name or one["name"].startswith(name)]


def replicas(item: Mapping[str, Any]) -> str | None:
    """Return how far each replica is behind."""
    return "; ".join(one["words"] for one in readings(item, "replica ")) or None


def lock_waits(item: Mapping[str, Any]) -> str | None:
    """Return how long the run has waited for locks so far."""
    metrics = item["metrics"] or {}
    if not metrics.get("lock_waits"):
        return None
    return f"{metrics['lock_waits']} ({metrics['lock_wait_ms']} ms)"


def round_trip(item: Mapping[str, Any]) -> str | None:
    """Return what a trivial query took on the target."""
    latency = (item["metrics"] or {}).get("latency_ms") or {}
    return f"p50 {latency['p50']} ms, p99 {latency['p99']} ms" if latency else None


def step_status(item: Mapping[str, Any], step: Mapping[str, Any]) -> str:
    """Return how a step stands: its undo, once that has begun; `begun` where nobody works on it now."""
    undo = step.get("undo")
    status = step["status"]
    if undo and undo["status"] not in ("pending", "skipped"):
        status = {"completed": "undone", "running": "undoing"}.get(undo["status"], undo["status"])
    return "begun" if status in ("running", "undoing") and not item["driven_by"] else str(status)


def step_seconds(step: Mapping[str, Any]) -> float | None:
    """Return how long a step took, or its undo."""
    undo = step.get("undo")
    found: float | None = (undo if undo and undo["seconds"] is not None else step)["seconds"]
    return found


def rows(job: Mapping[str, Any]) -> str:
    """Return how far a job is; without a share while more rows came than the table was estimated to have."""
    done = count(job["processed_rows"])
    if not share_known(job):
        return f"{done} so far"
    return f"{done} ({int(job['percent'])} %)"


def _far(step: Mapping[str, Any]) -> str:
    """Return how far a step is, where it says."""
    if "change" in step:
        return _changes.share(step["change"])
    return rows(step["job"]) if "job" in step else ""


def _show_change(item: Mapping[str, Any], step: Mapping[str, Any]) -> None:
    """Print how an online change goes on, while it does."""
    if "change" not in step or step["change"]["phase"] not in _changes.AT_WORK:
        return
    lines = _changes.in_the_way(step["change"])
    if (held := _changes.held_back(step["change"])) is not None:
        lines.append(f"log kept back: {held}")
    if item["driven_by"]:
        lines = [", ".join(_changes.progress(step["change"])), *lines]
    if lines:
        output.data()
    for line in lines:
        output.data(f"{step['name']}: {line}")


def share_known(job: Mapping[str, Any]) -> bool:
    """Return whether anybody knows how much of a job is left."""
    return bool(job["status"] == "completed" or job["processed_rows"] < (job["total_rows"] or 0))


def batches(job: Mapping[str, Any]) -> str | None:
    """Return how many batches of a job are done, and of how many."""
    done, whole = job["batches_done"], job["batches_total"]
    if not done and not job["batches_open"]:
        return None
    if job["status"] == "completed" or whole is None:
        return count(done)
    return f"{count(done)} of about {count(whole)}"


def seconds_left(job: Mapping[str, Any]) -> float | None:
    """Return how long a job should go on at its present rate; None where nobody knows."""
    rate = job["rows_per_second"]
    if job["status"] != "running" or not rate or not share_known(job):
        return None
    return float((job["total_rows"] - job["processed_rows"]) / rate)


def whole_time(seconds: float | None) -> str | None:
    """Return a whole execution's time, which the store keeps in whole seconds."""
    if seconds is None:
        return None
    return duration(seconds) if seconds else "under 1 s"


def show(item: dict[str, Any]) -> None:
    """Print an execution as it stands."""
    metrics = item["metrics"] or {}
    output.fields(
        [
            ("plan", item["plan"]),
            ("environment", item["environment"]),
            ("execution", f"{item['execution']} (number {item['number']})"),
            ("status", status(item)),
            ("because", waiting(item)),
            ("after", item["after"]),
            ("application", kept_out(item)),
            ("driven by", driver(item)),
            ("helped by", helpers(item)),
            ("started", item["started_at"]),
            ("took", whole_time(item["seconds"])),
            ("steps", f"{item['steps_completed']} of {item['steps_total']}"),
            ("pace", pace(item)),
            ("latency", application(item)),
            ("replicas", replicas(item)),
            ("WAL written", size(metrics["wal_bytes"]) if metrics.get("wal_bytes") else None),
            ("lock waits", lock_waits(item)),
            ("round trip", round_trip(item)),
            ("rollback until", item["rollback_until"]),
        ]
    )
    output.data()
    output.table(
        ["#", "step", "kind", "status", "took", "rows"],
        [
            (
                step["number"],
                step["name"],
                step["kind"],
                step_status(item, step),
                duration(seconds) if (seconds := step_seconds(step)) is not None else None,
                _far(step),
            )
            for step in item["steps"]
        ],
    )
    for step in item["steps"]:
        _show_change(item, step)
    if item["error"]:
        output.data()
        output.data(f"stopped: {item['error']['message']}")
        for line in item["error"].get("details", []):
            output.data(f"  {line}")
        if item["error"].get("hint"):
            output.data(f"hint: {item['error']['hint']}")
    elif item["next"]:
        output.data()
        output.data(f"next: {item['next']}")
