"""Show workers and what they do, in the same words wherever they are listed."""

from __future__ import annotations

from typing import Any

from segue.cli import _layout


def show(found: list[dict[str, Any]]) -> None:
    """Print the workers as a table, with the columns for which there is room."""
    if not found:
        return
    _layout.table(
        ["worker", "host", "pid", "version", "state", "takes", "since", "does"],
        [
            (
                item["name"],
                item["host"],
                item["pid"],
                item["version"],
                item["state"] if item["state"] != "dead" else f"dead for {item['silent']:.0f} s",
                f"{item['concurrency']} {' + '.join(item['queues'])}",
                f"{item['started_at']:%Y-%m-%d %H:%M:%S}Z",
                ", ".join(_work(item["doing"])) or None,
            )
            for item in found
        ],
        spare=["version", "since", "pid", "host", "takes"],
    )


def _work(doing: list[dict[str, Any]]) -> list[str]:
    """Return what a worker does: each execution it drives, and each step it helps with, with how often."""
    said: dict[str, int] = {}
    for entry in doing:
        words = "/".join(filter(None, [entry["plan"], entry["environment"], entry["step"]]))
        said[words] = said.get(words, 0) + 1
    return [f"{words} ({n} times)" if n > 1 else words for words, n in said.items()]
