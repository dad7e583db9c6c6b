"""Windows of time: read, written, and placed on the days on which clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as some

from segue.errors import InvalidInput
from segue.model.windows import DAYS, FAR, Window, parse_moment

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("Sunday 02:00-04:00 Europe/Berlin", "Sunday 02:00-04:00 Europe/Berlin"),
        ("Sunday 2-4 AM UTC", "Sunday 02:00-04:00 UTC"),
        ("Sundays 2:30-4 p.m. utc", "Sunday 14:30-16:00 UTC"),
        ("every day 10 PM to 2 AM america/new_york", "daily 22:00-02:00 America/New_York"),
        ("Mon-Fri 22:00\u201302:00 America/New_York", "Mon-Fri 22:00-02:00 America/New_York"),
        ("weekends 00:00-24:00 GMT", "Sat+Sun 00:00-24:00 UTC"),
        ("Fri-Mon 01:00-02:00 UTC", "Fri-Mon 01:00-02:00 UTC"),
        ("Mon, Wed and Thurs 9-11 PM UTC", "Mon+Wed+Thu 21:00-23:00 UTC"),
        (
            "Sat 22:00-24:00, Sun 00:00-04:00 Asia/Tokyo",
            "Saturday 22:00-24:00 Asia/Tokyo; Sunday 00:00-04:00 Asia/Tokyo",
        ),
        ("tue 10 PM-12 AM UTC;", "Tuesday 22:00-24:00 UTC"),
    ],
)
def test_window_is_read_and_written(text: str, means: str) -> None:
    assert str(Window.parse(text)) == means
    assert Window.parse(means) == Window.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ("Sunday", '"Sunday" names no times'),
        ("2-4 AM UTC", '"2-4 AM" has no day before it'),
        ("Sunday 2-4 AM", '"2-4 AM" has no time zone'),
        ("Sunday 2-4 UTC", '"2" does not say of which half of the day'),
        ("Sunday 10-2 AM UTC", "in two ways"),
        ("Sunday 1 PM-3:00 UTC", "in two ways"),
        ("Sunday 02:00-25:00 UTC", '"25:00" is no time of day'),
        ("Sunday 02:00-04:60 UTC", '"04:60" is no time of day'),
        ("Sunday 13-14 PM UTC", '"13 PM" is no time of day'),
        ("Sunday 24:00-02:00 UTC", "00:00 the day after"),
        ("Sunday 02:00-02:00 UTC", "a whole day is 00:00-24:00"),
        ("Someday 02:00-04:00 UTC", '"Someday" names no days'),
        ("Sunday 02:00 UTC", '"Sunday 02:00 UTC" is not days'),
        ("Sunday 02:00-04:00 UTC; 3-4 AM UTC", '"3-4 AM" has no day'),
        ("Sunday 02:00-04:00 Europe/Berlni", '"Europe/Berlni" is no time zone'),
        ("Sunday 02:00-04:00 EST", '"EST" is no time zone that says'),
        ("Sunday 02:00-04:00 ../../etc/localtime", "is no time zone"),
    ],
)
def test_what_is_no_window_is_refused_with_the_place_and_what_is_accepted(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Window.parse(text)
    assert f'"{text}" is not a window' in caught.value.message
    assert reason in caught.value.message
    assert caught.value.hint


def test_misspelt_zone_gets_a_suggestion() -> None:
    with pytest.raises(InvalidInput) as caught:
        Window.parse("Sunday 02:00-04:00 Europe/Berlni")
    assert caught.value.hint == 'did you mean "Europe/Berlin"?'


def test_window_is_open_from_its_start_until_just_before_its_end() -> None:
    window = Window.parse("Sunday 02:00-04:00 Europe/Berlin")
    assert window.open_at(utc("2026-11-29T01:00:00")) == utc("2026-11-29T03:00:00")
    assert window.open_at(utc("2026-11-29T02:59:59.999999")) == utc("2026-11-29T03:00:00")
    assert window.open_at(utc("2026-11-29T03:00:00")) is None
    assert window.open_at(utc("2026-11-29T00:59:59.999999")) is None
    assert window.next_opening(utc("2026-11-29T03:00:00")) == utc("2026-12-06T01:00:00")


def test_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    window = Window.parse("Mon-Fri 22:00-02:00 America/New_York")
    saturday_one_o_clock, monday_one_o_clock = utc("2026-11-28T06:00:00"), utc("2026-11-30T06:00:00")
    assert window.open_at(saturday_one_o_clock) == utc("2026-11-28T07:00:00")
    assert window.open_at(monday_one_o_clock) is None
    assert window.next_opening(monday_one_o_clock) == utc("2026-12-01T03:00:00")
    assert window.length == timedelta(hours=4)


def test_windows_that_touch_are_one() -> None:
    window = Window.parse("Sat 22:00-24:00, Sun 00:00-04:00 Europe/Berlin")
    assert window.open_at(utc("2026-11-28T21:30:00")) == utc("2026-11-29T03:00:00")
    assert window.length == timedelta(hours=6)


def test_window_of_all_days_never_closes() -> None:
    window = Window.parse("daily 00:00-24:00 Europe/Berlin")
    for month in range(1, 13):
        assert window.open_at(datetime(2026, month, 25, 1, tzinfo=UTC)) == FAR
    assert window.length == timedelta.max


# The clocks of Berlin go forward at 02:00 on 2026-03-29 and 2027-03-28, back at 03:00 on 2026-10-25 and 2027-10-31;
# those of New York forward at 02:00 on 2026-03-08 and 2027-03-14, back at 02:00 on 2026-11-01 and 2027-11-07.
@pytest.mark.parametrize(
    ("text", "opens", "closes"),
    [
        # Spring: 02:00 does not exist and is 03:00, the moment of the change.
        (f"Sunday 02:00-04:00 {BERLIN}", "2026-03-29T01:00", "2026-03-29T02:00"),
        (f"Sunday 02:30-04:00 {BERLIN}", "2027-03-28T01:00", "2027-03-28T02:00"),
        (f"Sunday 01:00-02:30 {BERLIN}", "2026-03-29T00:00", "2026-03-29T01:00"),
        (f"Saturday 22:00-02:30 {BERLIN}", "2026-03-28T21:00", "2026-03-29T01:00"),
        (f"Sunday 02:00-04:00 {NEW_YORK}", "2026-03-08T07:00", "2026-03-08T08:00"),
        (f"Sunday 01:00-04:00 {NEW_YORK}", "2027-03-14T06:00", "2027-03-14T08:00"),
        # Autumn: what comes twice begins at the first and ends at the last.
        (f"Sunday 02:00-04:00 {BERLIN}", "2026-10-25T00:00", "2026-10-25T03:00"),
        (f"Sunday 02:15-02:30 {BERLIN}", "2026-10-25T00:15", "2026-10-25T01:30"),
        (f"Sunday 01:00-02:30 {BERLIN}", "2027-10-30T23:00", "2027-10-31T01:30"),
        (f"Sunday 03:00-04:00 {BERLIN}", "2026-10-25T02:00", "2026-10-25T03:00"),
        (f"Saturday 22:00-02:00 {NEW_YORK}", "2026-11-01T02:00", "2026-11-01T07:00"),
        (f"Sunday 01:30-02:00 {NEW_YORK}", "2027-11-07T05:30", "2027-11-07T07:00"),
        # A zone without daylight saving knows nothing of it.
        ("Sunday 02:00-04:00 UTC", "2026-03-29T02:00", "2026-03-29T04:00"),
    ],
)
def test_window_on_a_day_when_clocks_change_follows_the_clock_on_the_wall(text: str, opens: str, closes: str) -> None:
    window, first, last = Window.parse(text), utc(opens), utc(closes)
    assert window.next_opening(first - timedelta(hours=3)) == first
    assert window.open_at(first) == last
    assert window.open_at(first - timedelta(microseconds=1)) is None
    assert window.open_at(last) is None


def test_window_that_lies_in_the_gap_does_not_open_that_day() -> None:
    window = Window.parse("Sunday 02:15-02:45 Europe/Berlin")
    assert window.next_opening(utc("2026-03-28T12:00")) == utc("2026-04-05T00:15")


def test_opening_that_a_spring_night_makes_too_short_is_passed_over() -> None:
    window, friday = Window.parse("Sunday 02:00-04:00 Europe/Berlin"), utc("2026-03-27T12:00")
    assert window.next_opening(friday, timedelta(minutes=60)) == utc("2026-03-29T01:00")
    assert window.next_opening(friday, timedelta(minutes=61)) == utc("2026-04-05T00:00")


def test_what_is_left_of_an_opening_counts() -> None:
    window, half_past_two = Window.parse("daily 02:00-04:00 UTC"), utc("2026-11-29T02:30")
    assert window.next_opening(half_past_two, timedelta(minutes=90)) == half_past_two
    assert window.next_opening(half_past_two, timedelta(minutes=91)) == utc("2026-11-30T02:00")
    with pytest.raises(InvalidInput, match="never open for as long"):
        window.next_opening(half_past_two, timedelta(minutes=121))


CLOCK = some.integers(0, 24 * 4 - 1).map(lambda quarter: f"{quarter // 4:02}:{quarter % 4 * 15:02}")
SPANS = some.tuples(
    some.sets(some.sampled_from(DAYS), min_size=1).map("+".join),
    some.lists(CLOCK, min_size=2, max_size=2, unique=True).map("-".join),
    some.sampled_from(["UTC", BERLIN, NEW_YORK, "Australia/Lord_Howe", "America/Santiago", "Asia/Kathmandu"]),
).map(" ".join)
WINDOWS = some.lists(SPANS, min_size=1, max_size=3).map("; ".join).map(Window.parse)
MOMENTS = some.timedeltas(timedelta(0), timedelta(days=730)).map(lambda later: utc("2026-01-01") + later)


@given(WINDOWS, MOMENTS)
def test_next_opening_is_open_and_nothing_is_open_before_it(window: Window, moment: datetime) -> None:
    opening = window.next_opening(moment)
    assert opening >= moment
    assert window.open_at(opening) is not None
    between = (moment + (opening - moment) * part / 50 for part in range(50))
    assert all(window.open_at(at) is None for at in between if at < opening)


@given(WINDOWS, MOMENTS)
def test_window_is_open_until_the_moment_it_names_and_closed_then(window: Window, moment: datetime) -> None:
    opening = window.next_opening(moment)
    closes = window.open_at(opening)
    assert closes is not None
    if closes != FAR:
        assert window.open_at(closes) is None
        assert window.open_at(closes - timedelta(microseconds=1)) == closes
        assert all(window.open_at(opening + (closes - opening) * part / 20) == closes for part in range(20))


@given(SPANS.map(Window.parse), MOMENTS)
def test_clock_on_the_wall_that_shows_a_time_in_the_window_means_open(window: Window, moment: datetime) -> None:
    span = window.spans[0]
    there = moment.astimezone(ZoneInfo(span.zone))
    minutes = there.hour * 60 + there.minute
    today = there.weekday() in span.days and span.start <= minutes < span.end
    begun_yesterday = (there.weekday() - 1) % 7 in span.days and minutes + 24 * 60 < span.end
    if today or begun_yesterday:
        assert window.open_at(moment) is not None


@given(WINDOWS)
def test_window_survives_being_written(window: Window) -> None:
    assert Window.parse(str(window)) == window


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-29 02:00 Europe/Berlin", "2026-11-29T01:00"),
        ("2026-11-29 2 AM America/New_York", "2026-11-29T07:00"),
        ("2026-11-29T02:00:00+01:00", "2026-11-29T01:00"),
        ("2026-11-29T02:00Z", "2026-11-29T02:00"),
        ("2026-11-29 02:00:30 utc", "2026-11-29T02:00:30"),
        ("2026-03-29 02:30 Europe/Berlin", "2026-03-29T01:00"),
        ("2026-10-25 02:30 Europe/Berlin", "2026-10-25T00:30"),
    ],
)
def test_moment_is_read(text: str, moment: str) -> None:
    assert parse_moment(text) == utc(moment)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2026-11-29 02:00", "in which time zone"),
        ("2026-11-29T02:00:00", "in which time zone"),
        ("2026-11-29", "names no time"),
        ("2026-11-31 02:00 UTC", "no such day"),
        ("2026-11-29 25:00 UTC", "no such day or time"),
        ("2026-11-29 02:00 Berlin", '"Berlin" is no time zone'),
        ("tomorrow", "not a date"),
    ],
)
def test_what_is_no_moment_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match="is not a moment") as caught:
        parse_moment(text)
    assert reason in caught.value.message
