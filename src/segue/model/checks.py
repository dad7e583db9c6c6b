"""What a check of an environment finds: a light for each thing looked at, what was found, what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Light(StrEnum):
    """Whether something stands in the way: no; something will be refused, slower or unseen; nothing can run."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `do` is what a person can do about it, empty where nothing needs to be done."""

    light: Light
    what: str
    found: str
    do: str = ""
    details: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the finding for machines."""
        return {**asdict(self), "light": self.light.value, "details": list(self.details)}


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica that is connected now. `state` and `behind` (bytes of WAL) are None where the role may not see them."""

    name: str
    state: str | None
    behind: int | None
    synchronous: bool | None

    def as_json(self) -> dict[str, Any]:
        """Return the replica for machines."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Checkup:
    """What a look at a database found.

    `identity` tells one database from another (see `Database.identity`); `unseen` names the signals that the role
    cannot read; `replicas` is None where nothing could be told of them.
    """

    identity: Mapping[str, Any]
    findings: Sequence[Finding]
    replicas: Sequence[Replica] | None = None
    unseen: Sequence[str] = ()


def worst(findings: Sequence[Finding]) -> Light:
    """Return the worst light of several findings; green when there are none."""
    order = list(Light)
    return max((finding.light for finding in findings), key=order.index, default=Light.GREEN)
