"""Database URLs: what may be shown of them, and where a password can hide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from segue.model import urls


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hush@host/shop",
        "postgres://:hush@host",
        "postgresql://host/shop?password=hush",
        "postgresql:///shop?host=/run&sslpassword=hush",
        "host=host password=hush",
        "host = host password = 'hu sh'",
        "postgresql://me:hush@[broken/shop",
        "postgresql://me:hu/sh@host/shop",
        "postgresql://me:hu#sh@host/shop",
        "postgresql://me:hu?sh@host/shop",
        "postgresql://me:12/hush@host/shop",
        "PASSWORD=hush host=host",
    ],
)
def test_password_is_found_and_never_public(url: str) -> None:
    assert urls.has_password(url)
    assert "hu" not in urls.public(url)
    assert "hu" not in urls.place(url)


@pytest.mark.parametrize("url", ["postgresql://me@host/shop", "service=shop", "host=h user=me", "postgresql:///shop"])
def test_url_without_password_is_known_as_such(url: str) -> None:
    assert urls.is_url(url)
    assert not urls.has_password(url)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://me:hush@host:5433/shop?sslmode=require", "host:5433/shop"),
        ("postgresql:///shop?host=/run/pg&port=5433", "/run/pg:5433/shop"),
        ("host=/run/pg dbname=shop", "/run/pg/shop"),
        ("host=host port=5433 dbname='my shop'", "host:5433/my shop"),
        ("service=shop password=hush", "service=shop"),
        ("postgresql://me@host", "host"),
        ("postgresql://one:5432,two:5433/shop", "one:5432,two:5433/shop"),
        ("postgresql://[::1]:5432/shop", "[::1]:5432/shop"),
        ("postgresql://[::1]/shop?user=me@corp", "[::1]/shop"),
    ],
)
def test_place_says_where_a_url_leads(url: str, place: str) -> None:
    assert urls.place(url) == place


@given(
    st.dictionaries(st.sampled_from(sorted(urls.LIBPQ)), st.text(st.characters(codec="utf-8", exclude_characters="\0")))
)
def test_libpq_variables_keep_their_values_as_libpq_reads_them(environ: dict[str, str]) -> None:
    text = urls.from_environment(environ)
    if text is None:
        return
    expected = {urls.LIBPQ[name]: value for name, value in environ.items() if value}
    assert conninfo_to_dict(text) == expected
    assert urls.pairs(text) == expected


def test_libpq_variables_that_name_no_database_are_none() -> None:
    assert urls.from_environment({"PGUSER": "me", "PGHOST": ""}) is None


@pytest.mark.parametrize(
    "text",
    [
        "no route to postgresql://me:hush@host/shop now",
        "sslmode=disable password=hush host=h",
        "password='hu sh' user=me",
        '{"password": "hush"}',
        "PGPASSWORD=hush",
        "ALTER ROLE me ENCRYPTED PASSWORD 'hu''sh' VALID",
    ],
)
def test_redacted_text_has_no_password(text: str) -> None:
    assert "hu" not in urls.redact(text)


def test_redacted_text_keeps_what_is_no_password() -> None:
    text = 'password authentication failed for user "me" at http://host:80/path'
    assert urls.redact(text) == text
