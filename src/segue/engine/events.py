"""What whoever watches a run is told: a line at a time, with numbers beside the words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened: `action` is a word to search by, `message` a sentence for people."""

    action: str
    message: str
    step: str | None = None
    level: str = "info"
    detail: Mapping[str, Any] = field(default_factory=dict)


Watch = Callable[[Event], None]


def nobody(event: Event) -> None:
    """Watch nothing."""
