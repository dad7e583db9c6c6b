"""Tables that live in two databases at once: how such a move stands, and what a switch took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MoveStanding:
    """How a move stands. `open`: the side that is written to, "source" or "target"; None when a switch was cut off."""

    open: str | None
    switches: int
    both_ways: bool
    #: Whether the target has its copy and follows.
    followed: bool
    #: How far the closed side is behind; None where that cannot be told.
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    #: Whether what is committed arrives.
    caught_up: bool | None = None
    #: Why it is not followed as it should be, where that can be seen.
    problem: str | None = None
    #: Keys that wait to be carried over, where a process of ours follows.
    lag_rows: int | None = None


@dataclass(frozen=True, slots=True)
class MoveSwitched:
    """What a switch took, in seconds: `stopped`, for which nobody could write, and of that `drain`."""

    open: str
    stopped: float
    drain: float
    #: How often the locks were tried for in vain, and the longest that writers queued behind such a try.
    slices: int
    longest: float


@dataclass(frozen=True, slots=True)
class MoveStarted:
    """What was copied."""

    tables: dict[str, int]
    seconds: float
    #: False when an earlier start had copied everything.
    copied: bool
