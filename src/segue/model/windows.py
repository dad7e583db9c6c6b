"""Windows in which work may be done, and moments, as people write them: by the clock on the wall of some place.

A window is one stretch from the first moment when the clock there shows its start to the last moment when it shows its
end. Where the clocks go forward, a start or end that is left out is the moment of the change, so the window is shorter,
and one that lies in the gap does not open that day. Where they go back, a time that comes twice begins at the first and
ends at the second, so the window is longer. Lengths are elapsed time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, lru_cache
from zoneinfo import ZoneInfo, available_timezones

from segue.errors import InvalidInput

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
EXAMPLES = "`Sunday 02:00-04:00 Europe/Berlin`, `Mon-Fri 22:00-02:00 UTC`, `daily 1-3 AM America/New_York`"
#: When a window closes that does not close within the next two weeks.
FAR = datetime(9999, 1, 1, tzinfo=UTC)

_ALL = frozenset(range(7))
_WORDS = {
    "daily": _ALL,
    "day": _ALL,
    "everyday": _ALL,
    "weekdays": frozenset(range(5)),
    "weekday": frozenset(range(5)),
    "weekends": frozenset((5, 6)),
    "weekend": frozenset((5, 6)),
}
_SHORT = {"tues": 1, "weds": 2, "thur": 3, "thurs": 3}
_TIME = r"\d{1,2}(?::\d{2})?(?:\s*[ap]\.?m\b\.?)?"
_SEGMENT = re.compile(rf"(?P<days>[^\d]*?)\s*(?P<start>{_TIME})\s*-\s*(?P<end>{_TIME})(?:\s+(?P<zone>.*))?", re.I)
_CLOCK = re.compile(r"(\d{1,2})(?::(\d{2}))?\s*(?:([ap])\.?m\.?)?", re.I)
_MOMENT = re.compile(rf"(\d{{4}}-\d{{2}}-\d{{2}})[T ]+(\d{{1,2}}:\d{{2}}:\d{{2}}|{_TIME})\s*(\S*)", re.I)
# EST is five hours behind all year, in the tz database, and IST is in use in three countries.
_ABBREVIATION = re.compile(r"[A-Z]{3,4}")
_UNIVERSAL = {"utc": "UTC", "gmt": "UTC", "z": "UTC", "uct": "UTC", "zulu": "UTC"}
_DAY = 24 * 60
# Two weeks: a weekly window that lies in the gap of a spring night opens a week later.
_AHEAD = 16


@dataclass(frozen=True, slots=True)
class Span:
    """One window of a day: the days on which it begins (0 is Monday), and minutes after midnight.

    An `end` above a day's minutes is on the day after.
    """

    days: frozenset[int]
    start: int
    end: int
    zone: str

    def on(self, day: date) -> tuple[datetime, datetime] | None:
        """Return when it opens and closes if it begins on this day; nothing where no moment is left of it."""
        if day.weekday() not in self.days:
            return None
        midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - wall-clock time, placed by _utc
        opens = _utc(midnight + timedelta(minutes=self.start), self.zone, last=False)
        closes = _utc(midnight + timedelta(minutes=self.end), self.zone, last=True)
        return (opens, closes) if opens < closes else None

    def __str__(self) -> str:
        end = self.end if self.end <= _DAY else self.end - _DAY
        return f"{_days_text(self.days)} {_clock_text(self.start)}-{_clock_text(end)} {self.zone}"


@dataclass(frozen=True)
class Window:
    """When work may be done: one or more times of the week."""

    spans: tuple[Span, ...]

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read `Sunday 02:00-04:00 Europe/Berlin`, `Sunday 2-4 AM UTC`, `Mon-Fri 22:00-02:00 UTC; Sat 00:00-24:00 UTC`.

        A zone at the end counts for the times before it that have none. Raises InvalidInput.
        """
        spans: list[Span] = []
        for part, zone in reversed(list(_parts(text))):
            spans.append(_span(part, zone or (spans[-1].zone if spans else ""), text))
        return cls(tuple(reversed(spans)))

    def open_at(self, moment: datetime) -> datetime | None:
        """Return when it closes if it is open at this moment (`FAR`: not for two weeks), else nothing."""
        for opens, closes in self._stretches(moment):
            if opens > moment:
                return None
            if moment < closes:
                return closes if closes - moment < timedelta(days=_AHEAD - 2) else FAR
        return None

    def next_opening(self, moment: datetime, lasting: timedelta = timedelta(0)) -> datetime:
        """Return the first moment, not before the given one, at which it is open, and stays so for at least `lasting`.

        In UTC. `lasting` is at most `length`.
        """
        from_here = moment.astimezone(UTC)
        # A window of a spring night may be too short, and the one a week later is not.
        for weeks in range(6):
            for opens, closes in self._stretches(from_here + timedelta(weeks=weeks)):
                begin = max(opens, from_here)
                if begin < closes and closes - begin >= lasting:
                    return begin
        raise InvalidInput(
            f'the window "{self}" is never open for as long as {lasting}', hint=f"it is open for {self.length} at most"
        )

    @cached_property
    def length(self) -> timedelta:
        """How long it is open at a stretch, at most, in weeks without a change of clocks; `timedelta.max`: always."""
        # In the middle of January no place changes its clocks.
        middle = datetime(2024, 1, 10, tzinfo=UTC)
        longest = max((closes - opens for opens, closes in self._stretches(middle)), default=timedelta(0))
        return longest if longest < timedelta(days=_AHEAD - 2) else timedelta.max

    def __str__(self) -> str:
        return "; ".join(str(span) for span in self.spans)

    def _stretches(self, moment: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Yield when it opens and closes, from before the moment to two weeks after, in order; none touch."""
        first = moment.astimezone(UTC).date() - timedelta(days=3)
        days = [first + timedelta(days=number) for number in range(_AHEAD + 3)]
        found = sorted(hours for span in self.spans for day in days if (hours := span.on(day)) is not None)
        current: tuple[datetime, datetime] | None = None
        for opens, closes in found:
            if current is not None and opens <= current[1]:
                current = (current[0], max(current[1], closes))
                continue
            if current is not None:
                yield current
            current = (opens, closes)
        if current is not None:
            yield current


def parse_moment(text: str) -> datetime:
    """Return a moment, in UTC: `2026-11-29 02:00 Europe/Berlin`, or ISO 8601 with its offset from UTC.

    A time that the clocks there leave out is the moment of the change; one that comes twice is the first. Raises
    InvalidInput, also for a time without a zone.
    """
    stripped = " ".join(text.split())
    try:
        moment = datetime.fromisoformat(stripped)
    except ValueError:
        return _placed(stripped, text)
    if len(stripped) <= len("2026-11-29"):
        raise _no_moment(text, "it names no time")
    if moment.tzinfo is None:
        raise _no_moment(text, "it does not say in which time zone")
    return moment.astimezone(UTC)


def zone_named(name: str) -> str:
    """Return a time zone's name as the tz database writes it. Raises InvalidInput."""
    if name.lower() in _UNIVERSAL:
        return _UNIVERSAL[name.lower()]
    known = _known_zone(name)
    if known is not None and not _ABBREVIATION.fullmatch(known):
        return known
    close = _like(name) if "/" in name else None
    raise InvalidInput(
        f'"{name}" is no time zone that says when daylight saving begins and ends',
        hint=f'did you mean "{close}"?' if close else "write UTC, or a place such as Europe/Berlin",
    )


def _known_zone(name: str) -> str | None:
    if name.startswith(("posix", "right/", "local")) or name == "Factory":
        return None
    try:
        return ZoneInfo(name).key
    # A folder of the database, a path that leads out of it, or a name that it does not have.
    except (KeyError, ValueError, OSError):
        folded = {zone.lower(): zone for zone in available_timezones()}
        return folded.get(name.lower().replace(" ", "_"))


def _like(name: str) -> str | None:
    from difflib import get_close_matches

    close = get_close_matches(name, available_timezones(), n=1)
    return close[0] if close else None


# -- reading


def _parts(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Yield each time of the week with its zone as written, which may be empty; days alone belong to what follows."""
    dashed = re.sub("[\u2010-\u2015]", "-", " ".join(text.split()))  # all the dashes there are
    plain = re.sub(r"\s+to\s+", "-", dashed, flags=re.I)
    pending = ""
    pieces = [piece.strip() for piece in re.split("[;,]", plain)]
    while pieces and not pieces[-1]:
        pieces.pop()
    for piece in pieces:
        if piece and not re.search(r"\d", piece):
            pending += piece + " "
            continue
        found = _SEGMENT.fullmatch(pending + piece)
        if found is None:
            raise _wrong(text, f'"{piece}" is not days, a time to begin, a time to end, and a time zone')
        pending = ""
        yield found, (found["zone"] or "").strip()
    if pending or not pieces:
        raise _wrong(text, f'"{pending.strip()}" names no times' if pending else "it is empty")


def _span(found: re.Match[str], zone: str, text: str) -> Span:
    hours = f"{found['start']}-{found['end']}"
    if not found["days"]:
        raise _wrong(text, f'"{hours}" has no day before it; write `daily` for every day')
    if not zone:
        raise _wrong(text, f'"{hours}" has no time zone after it')
    try:
        named = zone_named(zone)
    except InvalidInput as error:
        raise _wrong(text, error.message, hint=error.hint) from None
    start, end = _hours(found["start"], found["end"], text)
    return Span(_days(found["days"], text), start, end, named)


def _hours(first: str, second: str, text: str) -> tuple[int, int]:
    """Return the minutes after midnight of both times; the second is on the next day when it is not later."""
    borrowed = not _half(first) and bool(_half(second))
    if _half(first) and not _half(second):
        raise _wrong(text, f'"{first}-{second}" may be read in two ways; write AM or PM at both')
    try:
        start = _minutes(f"{first} {_half(second)}" if borrowed else first)
        end = _minutes(second)
    except ValueError as error:
        raise _wrong(text, str(error)) from None
    if start == _DAY:
        raise _wrong(text, f'"{first}" is where a day ends; a window that begins there begins at 00:00 the day after')
    if end == 0:
        end = _DAY
    if start == end:
        raise _wrong(text, f'"{first}-{second}" begins where it ends; a whole day is 00:00-24:00')
    if end < start:
        if borrowed:
            raise _wrong(text, f'"{first}-{second}" may be read in two ways; write AM or PM at both')
        end += _DAY
    return start, end


def _half(clock: str) -> str:
    found = _CLOCK.fullmatch(clock.strip())
    return f"{found[3]}M".upper() if found and found[3] else ""


def _minutes(clock: str) -> int:
    """Return minutes after midnight; raises ValueError with the reason."""
    found = _CLOCK.fullmatch(clock.strip())
    if found is None:
        raise ValueError(f'"{clock}" is no time of day')
    hour, minute, half = int(found[1]), int(found[2] or 0), (found[3] or "").lower()
    if not half and found[2] is None:
        raise ValueError(f'"{clock}" does not say of which half of the day; write {hour:02}:00, or AM or PM')
    if half and not 1 <= hour <= 12:
        raise ValueError(f'"{clock}" is no time of day: AM and PM go with 1 to 12')
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    if minute > 59 or hour * 60 + minute > _DAY:
        raise ValueError(f'"{clock}" is no time of day')
    return hour * 60 + minute


def _days(words: str, text: str) -> frozenset[int]:
    plain = re.sub(r"\s*-\s*", "-", words.lower())
    found: set[int] = set()
    for word in re.split(r"[\s+/&]+", plain.strip()):
        if word in ("", "and", "every", "on", "from"):
            continue
        if word in _WORDS:
            found |= _WORDS[word]
            continue
        first, dash, last = word.partition("-")
        begin, end = _day(first), _day(last if dash else first)
        if begin is None or end is None:
            raise _wrong(text, f'"{words.strip()}" names no days')
        found |= {(begin + number) % 7 for number in range((end - begin) % 7 + 1)}
    if not found:
        raise _wrong(text, f'"{words.strip()}" names no days')
    return frozenset(found)


def _day(word: str) -> int | None:
    singular = word.rstrip(".").removesuffix("s") if len(word) > 6 else word.rstrip(".")
    for number, name in enumerate(DAYS):
        if singular in (name.lower(), name[:3].lower(), name[:2].lower()):
            return number
    return _SHORT.get(word.rstrip("."))


def _placed(stripped: str, text: str) -> datetime:
    found = _MOMENT.fullmatch(stripped)
    if found is None:
        raise _no_moment(text, "it is not a date, a time and a time zone")
    day, clock, zone = found.groups()
    if not zone:
        raise _no_moment(text, "it does not say in which time zone")
    try:
        if clock.count(":") == 2:
            wall = datetime.fromisoformat(f"{day} {clock.zfill(8)}")
        else:
            wall = datetime.fromisoformat(day) + timedelta(minutes=_minutes(clock))
        return _utc(wall, zone_named(zone), last=False)
    except InvalidInput as error:
        raise _no_moment(text, error.message, hint=error.hint) from None
    except (ValueError, OverflowError):
        raise _no_moment(text, "there is no such day or time") from None


def _wrong(text: str, reason: str, *, hint: str = "") -> InvalidInput:
    return InvalidInput(f'"{text}" is not a window: {reason}', hint=hint or f"write for example {EXAMPLES}")


def _no_moment(text: str, reason: str, *, hint: str = "") -> InvalidInput:
    return InvalidInput(
        f'"{text}" is not a moment: {reason}',
        hint=hint or "write for example `2026-11-29 02:00 Europe/Berlin` or `2026-11-29T02:00:00+01:00`",
    )


# -- writing


def _days_text(days: frozenset[int]) -> str:
    if days == _ALL:
        return "daily"
    if len(days) == 1:
        return DAYS[min(days)]
    # Where a row of days begins: after a day that is not in it, also over the end of the week.
    begins = [day for day in sorted(days) if (day - 1) % 7 not in days]
    rows = []
    for begin in begins:
        length = next(number for number in range(1, 8) if (begin + number) % 7 not in days)
        row = [DAYS[(begin + number) % 7][:3] for number in range(length)]
        rows.append(f"{row[0]}-{row[-1]}" if length > 2 else "+".join(row))
    return "+".join(rows)


def _clock_text(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


# -- from wall-clock time to moments


@lru_cache(maxsize=512)
def _utc(wall: datetime, zone: str, *, last: bool) -> datetime:
    """Return the moment, in UTC, when clocks there show a time: the first or last of two, or the change it falls in."""
    place = ZoneInfo(zone)
    earlier = wall.replace(tzinfo=place, fold=0).astimezone(UTC)
    later = wall.replace(tzinfo=place, fold=1).astimezone(UTC)
    if earlier <= later:
        return later if last else earlier
    # Left out: between the two readings (by the offset after, and by the offset before) the clocks go forward.
    before, after = later, earlier
    old = before.astimezone(place).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = (before + (after - before) / 2).replace(microsecond=0)
        if middle.astimezone(place).utcoffset() == old:
            before = middle
        else:
            after = middle
    return after
