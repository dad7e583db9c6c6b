"""Values that depend on a session's settings are as an ordinary session would make them, or the change is refused."""

from __future__ import annotations

import pytest
from fix_online import run_sql, site_of
from fix_targets import Open

from segue.databases.postgresql.online import shadow
from segue.errors import StepFailed
from segue.model.online import ChangeSpec, TableChange


def draw(open_target: Open, url: str, *alter: str, reversible: bool = False) -> bool:
    """Draw a change up; return whether its values are those that an ordinary session's ALTER TABLE gives."""
    spec = ChangeSpec(tables=(TableChange("t", alter),), reversible=reversible)
    site = site_of(open_target(url))
    (member,) = shadow.draw_up(site, "settings", spec, "shadow-table")
    run_sql(url, "CREATE TABLE public.native AS TABLE t", *(f"ALTER TABLE public.native {text}" for text in alter))
    same = " AND ".join(
        f"(SELECT {column.into} FROM public.native) IS NOT DISTINCT FROM {column.expression}"
        for column in member.forward.columns
    )
    return bool(site.work.execute(f"SELECT {same} FROM public.t".encode()).fetchone()[0])  # type: ignore[index]


def make(url: str, *settings: str) -> None:
    database = url.split("?", maxsplit=1)[0].rsplit("/", 1)[1]
    run_sql(
        url,
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz, amount numeric, said text)",
        "INSERT INTO t VALUES (1, '2026-07-01 12:00+00', 1.5, '2026-07-01 12:00')",
        *(f'ALTER DATABASE "{database}" SET {setting}' for setting in settings),
    )


@pytest.mark.parametrize(
    "alter",
    [
        "ALTER at TYPE timestamp",
        "ALTER at TYPE text",
        "ALTER at TYPE date",
        "ALTER said TYPE timestamptz USING said::timestamptz",
    ],
)
def test_conversion_that_depends_on_the_time_zone_is_refused_where_the_databases_is_another(
    any_database: str, open_target: Open, alter: str
) -> None:
    make(any_database, "timezone = 'Europe/Berlin'")
    with pytest.raises(StepFailed, match="depends on settings of the session") as caught:
        draw(open_target, any_database, alter)
    assert 'TimeZone: "Europe/Berlin" in sessions of this role on this database, "UTC" here' in caught.value.details
    assert "AT TIME ZONE" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "alter",
    [
        "ALTER at TYPE timestamp USING at AT TIME ZONE 'Europe/Berlin'",
        "ALTER at TYPE text USING to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
        "ALTER said TYPE text USING concat(said, id)",
        "ALTER amount TYPE text",
    ],
)
def test_conversion_that_says_what_is_meant_is_taken_whatever_the_settings(
    database: str, open_target: Open, alter: str
) -> None:
    make(database, "timezone = 'Europe/Berlin'", "datestyle = 'SQL, DMY'")
    assert draw(open_target, database, alter)


def test_conversion_is_taken_where_the_settings_are_the_same(database: str, open_target: Open) -> None:
    make(database, "timezone = 'UTC'", "datestyle = 'ISO, YMD'")
    assert draw(open_target, database, "ALTER at TYPE timestamp", reversible=True)


def test_way_back_that_depends_on_settings_is_refused(database: str, open_target: Open) -> None:
    make(database, "timezone = 'Europe/Berlin'")
    with pytest.raises(StepFailed, match="no way back for column"):
        draw(open_target, database, "ALTER at TYPE timestamp USING at AT TIME ZONE 'UTC'", reversible=True)


def test_expression_over_the_present_moment_is_refused(database: str, open_target: Open) -> None:
    make(database)
    with pytest.raises(StepFailed, match="another value each time"):
        draw(open_target, database, "ALTER at TYPE timestamptz USING coalesce(at, now())")
