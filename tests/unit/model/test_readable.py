"""Names in what people read have no more quotes than they need."""

from __future__ import annotations

import pytest

from segue.model.online import readable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('"public"."items" goes along: its "order_id" refers', 'public.items goes along: its "order_id" refers'),
        ('of "a"."b"."c", and "public"."Orders"', 'of a.b.c, and "public"."Orders"'),
        ('"public"."x""y" and "a.b"."c"', '"public"."x""y" and "a.b"."c"'),
        ("nothing to do here", "nothing to do here"),
    ],
)
def test_qualified_names_lose_quotes_that_they_need_not_have(text: str, shown: str) -> None:
    assert readable(text) == shown
