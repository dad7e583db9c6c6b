"""Draw what a check found: what is wrong first, with what to do, then what is in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.cli import _layout, output
from segue.model.checks import Light

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.model.checks import Finding

#: A longer name of a thing stands on a line of its own.
WIDEST = 24
_STYLE = {Light.RED: "red", Light.AMBER: "yellow", Light.GREEN: "green"}


def draw(title: str, findings: Sequence[Finding]) -> None:
    """Print a check of what `title` names."""
    width = min(max((len(finding.what) for finding in findings), default=0), WIDEST)
    for light in reversed(Light):
        for finding in findings:
            if finding.light is light:
                _line(finding, width)
    numbers = {light: sum(finding.light is light for finding in findings) for light in reversed(Light)}
    words = ", ".join(f"{number} {light.value}" for light, number in numbers.items() if number)
    output.say(f"{title}: {words}")


def _line(finding: Finding, width: int) -> None:
    indent = " " * (8 + width + 2)
    begin = f"{output.paint(finding.light.value.ljust(5), _STYLE[finding.light])}   {finding.what.ljust(width)}  "
    plain = f"{finding.light.value.ljust(5)}   {finding.what.ljust(width)}  "
    if len(finding.what) > width:
        output.data(begin.rstrip())
        begin = plain = indent
    _layout.paragraph(finding.found, first=plain, shown=begin, indent=indent)
    for detail in finding.details:
        _layout.paragraph(detail, indent=indent + "  ")
    if finding.do:
        _layout.paragraph(f"do: {finding.do}", first=indent, indent=indent + "    ")
