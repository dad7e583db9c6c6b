"""How politely data work goes: limits as people set them, a latency budget, and what a signal read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from segue.model.quantities import octets, seconds

#: What a limit is set to where there shall be none.
NONE = "none"

KINDS = ("p50", "p95", "p99", "avg", "max")
_BUDGET = re.compile(r"\s*(\w+)\s*=\s*(\d+(?:\.\d+)?)\s*(\w*)\s*")


@dataclass(frozen=True, slots=True)
class Budget:
    """The latency that the application may have: a statistic of it (p50, p95, p99, avg, max), in milliseconds."""

    kind: str
    milliseconds: float

    @classmethod
    def of(cls, text: str) -> Budget:
        """Read `p95=10ms`; raises ValueError with a message for people."""
        found = _BUDGET.fullmatch(text)
        if found is None:
            raise ValueError(f'"{text}" is not a latency budget; write for example p95=10ms')
        kind, number, unit = found[1].lower(), float(found[2]), found[3].lower()
        if kind not in KINDS:
            raise ValueError(f'"{found[1]}" is no measure of a latency; there is {", ".join(KINDS)}')
        if unit not in ("ms", "s"):
            raise ValueError(f'"{text}" does not say its unit; write for example {kind}={found[2]}ms')
        milliseconds = number * (1000 if unit == "s" else 1)
        if not 0 < milliseconds <= 3_600_000:
            raise ValueError(f'"{text}" is no budget: it must be more than nothing, and at most an hour')
        return cls(kind, milliseconds)

    def __str__(self) -> str:
        return f"{self.kind}={self.milliseconds:.15g}ms"


def _none(value: Any) -> str | None:
    return NONE if isinstance(value, str) and value.strip().lower() in (NONE, "off") else None


def _bytes(value: Any) -> Any:
    if value is None:
        return None
    return _none(value) or octets(value)


def _rate(value: Any) -> Any:
    return _bytes(value.strip().removesuffix("/s") if isinstance(value, str) else value)


def _seconds(value: Any) -> Any:
    if value is None:
        return None
    return _none(value) or seconds(value)


def _number(value: Any) -> Any:
    if value is None:
        return None
    if _none(value):
        return NONE
    text = str(value).strip()
    if isinstance(value, bool | float) or not re.fullmatch(r"\d{1,9}", text):
        raise ValueError(f'"{value}" is not a number of sessions; write for example 20, or none')
    return int(text)


def _share(value: Any) -> Any:
    if value is None:
        return None
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if isinstance(value, bool) or not 0.01 <= share <= 1:
        raise ValueError(f'"{value}" is no share of the time; write for example 50%, from 1% to 100%')
    return share


def _budget(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f'"{value}" is not a latency budget; write for example p95=10ms')
    return _none(value) or str(Budget.of(value))


def _url(value: Any) -> Any:
    if value is None:
        return None
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        known = False
    if not known:
        raise ValueError("a latency URL begins with http:// or https:// and names a host")
    if "@" in parts.netloc:
        raise ValueError("a latency URL may not hold a password: it is stored and shown as it is")
    return value


def _probe(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a latency probe is a SELECT")
    return value


def _or_text(kind: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "string", "examples": list(examples)}, {"type": kind}]})


_Bytes = Annotated[int | Literal["none"] | None, BeforeValidator(_bytes), _or_text("integer", "64MB", NONE)]
_Rate = Annotated[int | Literal["none"] | None, BeforeValidator(_rate), _or_text("integer", "50MB/s", NONE)]
_Time = Annotated[float | Literal["none"] | None, BeforeValidator(_seconds), _or_text("number", "10s", NONE)]
_Count = Annotated[int | Literal["none"] | None, BeforeValidator(_number), _or_text("integer", NONE)]
_Share = Annotated[float | None, BeforeValidator(_share), _or_text("number", "50%")]
_Text = WithJsonSchema({"type": "string"})


class ThrottleSettings(BaseModel):
    """Limits of data work. What is left out comes from the level below: the environment, then the built-in value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_budget: Annotated[str | None, BeforeValidator(_budget), _Text] = Field(
        default=None, description="The application's latency that must hold, for example `p95=10ms`."
    )
    latency_probe: Annotated[str | None, BeforeValidator(_probe), _Text] = Field(
        default=None, description="A SELECT whose time stands for the application's latency."
    )
    latency_url: Annotated[str | None, BeforeValidator(_url), _Text] = Field(
        default=None, description="A URL that answers the application's latency in milliseconds."
    )
    replica_lag: _Bytes = Field(default=None, description="How far a replica may be behind, in bytes of WAL.")
    replica_delay: _Time = Field(default=None, description="How far a replica may be behind, in time.")
    slot_backlog: _Bytes = Field(default=None, description="How much WAL a replication slot may hold back.")
    archive_backlog: _Bytes = Field(default=None, description="How much WAL may wait for being archived.")
    wal_rate: _Rate = Field(default=None, description="How much WAL the server may write in a second.")
    checkpoint_gap: _Time = Field(
        default=None, description="The least time between checkpoints that the volume of WAL forces."
    )
    active_sessions: _Count = Field(default=None, description="How many other sessions may work at a time.")
    lock_waiters: _Count = Field(default=None, description="How many sessions may wait for locks.")
    blocked_sessions: _Count = Field(default=None, description="How many sessions may wait for Segue's locks.")
    duty: _Share = Field(default=None, description="The most of the time that a worker may work, for example `50%`.")
    workers: int | None = Field(default=None, ge=1, le=1024, description="The most workers at a time.")
    enabled: bool | None = Field(default=None, description="`false`: no signal slows the work down.")

    @model_validator(mode="after")
    def _one_source(self) -> ThrottleSettings:
        if self.latency_probe is not None and self.latency_url is not None:
            raise ValueError("the latency comes from a probe or from a URL, not from both")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """Return what is set, by name: JSON values that make the same settings again."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}

    @property
    def budget(self) -> Budget | None:
        """Return the latency budget, None when there is none."""
        return Budget.of(self.latency_budget) if self.latency_budget not in (None, NONE) else None

    def over(self, below: ThrottleSettings) -> ThrottleSettings:
        """Return these settings on top of others: what is set here counts. A source of latency replaces another."""
        merged = {**below.given, **self.given}
        if self.latency_url is not None:
            merged.pop("latency_probe", None)
        elif self.latency_probe is not None:
            merged.pop("latency_url", None)
        return ThrottleSettings(**merged)

    def limit(self, name: str) -> Limit:
        """Return the limit of a signal."""
        value = getattr(self, name)
        if value is None:
            return Limit(DEFAULTS.get(name), asked=False)
        return Limit(None if value == NONE else value, asked=value != NONE, off=value == NONE)


@dataclass(frozen=True, slots=True)
class Limit:
    """A signal's limit, None for none. `asked`: by somebody, so the signal must be readable; `off`: nobody looks."""

    value: float | None
    asked: bool = False
    off: bool = False


# Where nobody has said anything. Active sessions and slots have limits that follow the server's own settings.
DEFAULTS: Mapping[str, float] = {
    "replica_lag": 64_000_000,
    "replica_delay": 10.0,
    "slot_backlog": 10_000_000_000,
    "archive_backlog": 2_000_000_000,
    "lock_waiters": 20,
    "blocked_sessions": 3,
}


def settings_of(values: Mapping[str, Any] | None) -> ThrottleSettings:
    """Return settings from words as people or the store give them; raises ValueError with a message for people."""
    try:
        return ThrottleSettings.model_validate(dict(values or {}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "extra_forbidden":
            known = ", ".join(name.replace("_", "-") for name in ThrottleSettings.model_fields)
            raise ValueError(f'"{first["loc"][0]}" is no limit; there is {known}') from None
        said = str(first.get("ctx", {}).get("error", "")) or f"{first['loc'][0]}: {first['msg'].lower()}"
        raise ValueError(said) from None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a signal showed. `state`: ok, slow, stop, or unknown (it could not be read, although it must be).

    `pressure` is how much of what is allowed is used up: from 1 on the work slows down, from `brake` on it stops.
    """

    name: str
    value: float | None
    unit: str
    limit: float | None
    state: str
    words: str
    pressure: float = 0.0
    brake: float = 2.0

    def as_json(self) -> dict[str, Any]:
        """Return the reading as the store and the faces show it."""
        return {
            "name": self.name,
            "value": round(self.value, 3) if self.value is not None else None,
            "unit": self.unit,
            "limit": self.limit,
            "state": self.state,
            "words": self.words,
        }


def judged(
    name: str, value: float, unit: str, limit: float | None, words: str, *, slow: float = 1.0, stop: float = 2.0
) -> Reading:
    """Compare a value with its limit: from `slow` times the limit on it is slow, from `stop` times on it is stop."""
    if limit is None:
        return Reading(name, value, unit, None, "ok", words)
    begin = limit * slow
    pressure = value / begin if begin > 0 else (math.inf if value > 0 else 0.0)
    brake = stop / slow
    state = "ok" if pressure < 1 else "slow" if pressure < brake else "stop"
    return Reading(name, value, unit, limit, state, words, pressure, brake)


def stopping(name: str, words: str, *, unit: str = "") -> Reading:
    """Return a reading that stops the work whatever the numbers: something that must be there is not."""
    return Reading(name, None, unit, None, "stop", words, math.inf)


def unreadable(name: str, words: str, *, unit: str = "") -> Reading:
    """Return the reading of a signal that was asked for and cannot be read, which stops the work."""
    return Reading(name, None, unit, None, "unknown", words, math.inf)


@dataclass(frozen=True, slots=True)
class Signals:
    """A look at all signals: what was read, and by name what this role cannot see, with why."""

    readings: Sequence[Reading]
    unseen: Mapping[str, str]
