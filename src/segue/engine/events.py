"""What whoever watches a run is told: a line at a time, with numbers beside the words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened: `action` is a word to search by, `message` a sentence for people.

    `execution` is whose it is, where it is one's; `at` when it happened, None for just now.
    """

    action: str
    message: str
    step: str | None = None
    level: str = "info"
    detail: Mapping[str, Any] = field(default_factory=dict)
    execution: str | None = None
    at: datetime | None = None


Watch = Callable[[Event], None]


def nobody(event: Event) -> None:
    """Watch nothing."""
