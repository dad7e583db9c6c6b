"""Durations, sizes and counts as people write them, and the way back."""

from __future__ import annotations

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|min|s|m|h|d)")


def seconds(text: str | float) -> float:
    """Return the seconds in a duration such as `250ms`, `90s`, `1h 30m`, or a plain number of seconds.

    Raises ValueError with a message for people when it is not a duration.
    """
    if isinstance(text, bool) or not isinstance(text, int | float | str):
        raise ValueError(f'"{text}" is not a duration; write for example 30s, 5m or 1h 30m')
    if isinstance(text, int | float):
        value = float(text)
    else:
        stripped = text.strip()
        parts = _PART.findall(stripped)
        if not parts or _PART.sub("", stripped).strip():
            try:
                value = float(stripped)
            except ValueError:
                raise ValueError(f'"{text}" is not a duration; write for example 30s, 5m or 1h 30m') from None
        else:
            value = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 <= value < float("inf"):
        raise ValueError(f'"{text}" is not a duration: it must be zero or more')
    return value


_SIZES = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
_SIZES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


def octets(text: str | float) -> int:
    """Return the bytes in a size such as `64MB`, `1.5 GB`, `16MiB`, or a plain number of bytes.

    Raises ValueError with a message for people when it is not a size.
    """
    found = _SIZE.fullmatch(str(text).strip()) if not isinstance(text, bool) else None
    if found is None or found[2].lower() not in _SIZES:
        raise ValueError(f'"{text}" is not a size; write for example 64MB or 1.5GB')
    value = float(found[1]) * _SIZES[found[2].lower()]
    if value > 2**60:
        raise ValueError(f'"{text}" is not a sensible size')
    return round(value)


def duration(value: float) -> str:
    """Return seconds as people write them: `240 ms`, `3.2 s`, `4 m 10 s`, `2 h 5 m`."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{int(value // 60)} m {int(value % 60)} s"
    return f"{int(value // 3600)} h {int(value % 3600 // 60)} m"


def size(value: float) -> str:
    """Return bytes as people write them: `812 kB`, `1.3 GB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 1000 or unit == "TB":
            return f"{value:.0f} {unit}" if unit in ("B", "kB") else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def count(value: float) -> str:
    """Return a count with thousands separated: `1,234,567`."""
    return f"{value:,.0f}"
