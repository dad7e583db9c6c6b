"""Shows what was found when two databases were compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.model.verifying import TableVerdict

#: Rows that are shown of each table.
SHOWN = 10


def draw(found: Sequence[TableVerdict]) -> None:
    """Show a line for each pair of tables, and some of the rows that differ."""
    output.table(
        ("table", "rows", "in the other one", "", "took"),
        [
            (
                one.name if one.name == one.other else f"{one.name} = {one.other}",
                f"{one.rows[0]:,}",
                f"{one.rows[1]:,}",
                "equal" if one.equal else output.paint("DIFFERS", "red"),
                f"{one.seconds:.1f} s",
            )
            for one in found
        ],
    )
    for one in found:
        if one.alone:
            output.say(f"{one.name}: columns that one side alone has: {', '.join(one.alone)}")
        if one.note:
            output.say(f"{one.name}: {one.note}")
        for name, why in one.texts.items():
            output.say(f"{one.name}: {name} is compared by its text: {why}")
        for row in one.differences[:SHOWN]:
            which = f" in {', '.join(row.columns)}" if row.columns else ""
            key = ", ".join(f"{name}={value}" for name, value in zip(one.key, row.key, strict=True))
            output.data(f"{one.name}: {key} is {row.kind}{which}")
        rest = len(one.differences) - SHOWN
        if rest > 0 or one.more:
            at_least = "at least " if one.more else ""
            output.data(f"{one.name}: {at_least}{max(rest, 0) + one.more} more rows differ; --report names them")
        if one.repaired:
            output.say(f"{one.name}: {one.repaired} rows were repaired")
