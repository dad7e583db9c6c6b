"""Writes plans as a person would write a plan file."""

from __future__ import annotations

from typing import Any


def plan(document: dict[str, Any]) -> str:
    """Return a plan's document as a plan file."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes texts of several lines as blocks, as a person would."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    first = ("plan", "version", "description")
    keys = [*first, *(key for key in sorted(document) if key not in (*first, "steps")), "steps"]
    ordered = {key: document[key] for key in keys if key in document}
    ordered["steps"] = [_step_in_order(step) for step in document["steps"]]
    return yaml.dump(ordered, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100).rstrip("\n")


def _step_in_order(step: dict[str, Any]) -> dict[str, Any]:
    """Put name and kind first: the store keeps keys in an order of its own."""
    first = ("name", "kind", "stage", "description", "needs", "sql", "table", "set", "where", "query")
    keys = [*(key for key in first if key in step), *(key for key in sorted(step) if key not in first)]
    return {key: step[key] for key in keys}
