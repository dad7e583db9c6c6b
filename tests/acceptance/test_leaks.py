"""A password that is written wrongly is said to be wrong without being said."""

from __future__ import annotations

import pytest
from fix_process import Segue


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hush%hush@127.0.0.1:1/shop",
        "postgresql://me:hush@127.0.0.1:1/shop?hush",
        "postgresql://me:a/hush@127.0.0.1:1/shop",
        "postgresql://me:a#hush@127.0.0.1:1/shop",
        "host=127.0.0.1 port=1 PASSWORD=hush",
    ],
)
def test_unreadable_url_keeps_its_password(segue: Segue, url: str) -> None:
    said = [
        segue("env", "add", "shop", "--type", "test", "--url-stdin", text=url),
        segue("env", "show", "shop", "--json"),
        segue("env", "add", "other", "--type", "test", "--url-stdin", "--check", text=url),
        segue("doctor", "--json", env={"SEGUE_STORE": url}),
        segue("plan", "list", env={"SEGUE_STORE": url}),
    ]
    for outcome in said:
        assert "hush" not in outcome.stdout + outcome.stderr
        assert outcome.code != 70
