"""How an online change stands, in the same words for every command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segue import clock
from segue.cli import output
from segue.model.online import doing
from segue.model.quantities import count, duration, size

#: While these last, something is done for the change.
AT_WORK = ("pending", "creating-shadow", "capturing", "copying-data", "draining", "verifying", "swapping")


def phase(change: Mapping[str, Any]) -> str:
    """Return what is done now, in words."""
    if change["phase"] == "swapping" and change["strategy"] == "native-online":
        return "changing it in place"
    return doing(change["phase"])


def share(change: Mapping[str, Any]) -> str:
    """Return how far a change is, as short as can be."""
    if change["phase"] not in AT_WORK:
        return str(change["phase"])
    return f"{change['phase']} {int(change['percent'])} %"


def progress(change: Mapping[str, Any], rate: float | None = None) -> list[str]:
    """Return what is done, on how many rows, how fast, and how long it should take; `rate` where a newer one is known.

    A swap that waits says why in `in_the_way`.
    """
    said = [phase(change)]
    total = change["total_rows"]
    of = f" of about {count(total)}" if total else ""
    if change["phase"] == "copying-data":
        said.append(f"{count(change['rows_copied'])}{of} rows")
    elif change["phase"] == "verifying" and change["rows_compared"] is not None:
        said.append(f"{count(change['rows_compared'])}{of} rows")
    if change["phase"] in ("copying-data", "verifying"):
        rate = rate if rate is not None else change["rows_per_second"]
        if rate is not None:
            said.append(f"{count(rate)} rows/s")
        if change["estimated_completion"] is not None:
            left = (change["estimated_completion"] - clock.now()).total_seconds()
            said += [f"about {duration(left)} left"] if left > 0 else []
    return said


def in_the_way(change: Mapping[str, Any]) -> list[str]:
    """Return why a change is not further: refused rows, what the swap waits for and who stands there, the throttle."""
    if change["phase"] not in AT_WORK:
        return []
    said = []
    if change["conflicts"]:
        noun = "row does" if change["conflicts"] == 1 else "rows do"
        said.append(
            f"{count(change['conflicts'])} {noun} not fit the new definition; `segue change conflicts` lists them"
        )
    if change["waiting"]:
        said.append(str(change["waiting"]))
    said += [f"in the way: {line}" for line in change["blockers"]]
    if change["slowed"]:
        said.append(f"slowed down: {change['slowed']}")
    return said


def held_back(change: Mapping[str, Any]) -> str | None:
    """Return how much of its log the server keeps for a change that follows it, and what becomes of that."""
    wal = change["wal"]
    if wal is None or change["phase"] not in AT_WORK:
        return None
    if wal["given_up"]:
        return "given up: the replication slot is gone, and the copy begins anew when the change goes on"
    said = f"{size(wal['bytes'])} of at most {size(wal['limit'])}, {size(wal['behind'])} not read yet"
    return said + (f"; the server drops it after {size(wal['safe'])} more" if wal["safe"] is not None else "")


def until(change: Mapping[str, Any]) -> Any:
    """Return until when a change can be taken back, or that its time is over."""
    return "over: cleanup is due" if change["cleanup_due"] else change["reversible_until"]


def way_back(back: Mapping[str, Any] | None) -> str | None:
    """Return how current the old table is, and who sees to it."""
    if back is None:
        return None
    if back["waiting"] is None:
        return f"not known: {back['why']}"
    if not back["waiting"]:
        return "current: every write is in the old table too"
    noun = "write waits" if back["waiting"] == 1 else "writes wait"
    said = f"{count(back['waiting'])} {noun} to be brought to the old table"
    if not back["workers"]:
        return f"{said}, and no worker runs that does it: `segue worker`, or `segue worker --once` now and then"
    return f"{said}; the workers do that" + (f", but not now: {back['why']}" if back["why"] else "")


def show(change: Mapping[str, Any], back: Mapping[str, Any] | None = None) -> None:
    """Print a change as it stands, and how its way `back` does."""
    metrics = change["metrics"]
    output.fields(
        [
            ("change", change["change"]),
            ("table", change["table"]),
            ("type", change["type"] + (f" ({change['column']})" if change["column"] else "")),
            ("strategy", change["strategy"]),
            ("because", "; ".join(change["reasons"]) or None),
            ("execution", f"{change['execution']} ({change['status']} in {change['environment']})"),
            ("phase", f"{change['phase']} ({int(change['percent'])} %)"),
            ("now", ", ".join(progress(change)) if change["driven"] and change["phase"] in AT_WORK else None),
            ("stopped", _why(change["error"])),
            ("waits", "; ".join(in_the_way(change)) or None),
            ("felt", f"{change['impact']} impact on the application"),
            ("rows copied", _of(change["rows_copied"], change["total_rows"])),
            ("log kept back", held_back(change)),
            ("set", _set(change)),
            ("started", change["started_at"]),
            ("expected end", change["estimated_completion"]),
            ("swapped", change["swapped_at"]),
            ("locks held", _locks(metrics)),
            ("way back until", until(change)),
            ("old table", way_back(back)),
            ("ended", change["completed_at"]),
        ]
    )
    for line in change["warnings"]:
        output.data(f"mind: {line}")
    if change["cleanup_due"]:
        output.data(f"next: `segue change cleanup --env {change['environment']}` drops what was kept for the way back")
    if change["shadows"]:
        output.data()
        output.table(
            ["table", "kept beside it", "state", "in sync as of", "rows", "there", "compared"],
            [
                (
                    shadow["original"],
                    shadow["shadow"],
                    _state(shadow),
                    shadow["last_sync_at"],
                    shadow["rows_original"],
                    shadow["rows_shadow"],
                    _compared(shadow),
                )
                for shadow in change["shadows"]
            ],
        )


def _why(error: Mapping[str, Any] | None) -> str | None:
    """Return why a change's execution failed, with what belongs to it."""
    if not error:
        return None
    said = [str(error.get("message") or "")] + [str(line) for line in (error.get("details") or [])[:5]]
    return "; ".join(words for words in said if words) or None


def _of(rows: int, total: int | None) -> str | None:
    if not rows and not total:
        return None
    return f"{count(rows)} of about {count(total)}" if total else count(rows)


def _locks(metrics: Mapping[str, Any]) -> str | None:
    held = metrics.get("swap_lock_ms")
    if held is None:
        return None
    tries = metrics.get("swap_tries") or 1
    return f"{held:g} ms for the swap" + (f", after {tries} tries" if tries > 1 else "")


def _state(shadow: Mapping[str, Any]) -> str:
    if not shadow["active"]:
        return "gone"
    return f"{shadow['sync']}, to be dropped" if shadow["marked_for_cleanup"] else str(shadow["sync"])


def _compared(shadow: Mapping[str, Any]) -> str | None:
    if shadow["checksum_original"] is None:
        return None
    return "equal" if shadow["checksum_original"] == shadow["checksum_shadow"] else "different"


def _set(change: Mapping[str, Any]) -> str | None:
    """Return what people have set, while it counts."""
    if change["phase"] not in (*AT_WORK, "failed"):
        return None
    return ", ".join(f"{name.replace('_', '-')} {_value(value)}" for name, value in change["set"].items()) or None


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
