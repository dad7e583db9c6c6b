"""Shapes of moves: read from a file, kept with the move, and followed by a process of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from segue.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.model.shapes import Shape
    from segue.ports.moving import Mover, Reshaper


def read(file: str) -> Shape:
    """Read a shape file, or the standard input for "-". Raises InvalidInput with file, line and column."""
    from segue.planning import shapefile
    from segue.services import plans

    text, name = plans.read_source(file)
    return shapefile.read(text, file=name)


def filtered(tables: Sequence[str], where: str) -> Shape:
    """Return the shape of tables that stay as they are, of which only some rows move; `where` calls the row `s`."""
    from segue.model.shapes import Part, Shape, Term

    def term(text: str) -> Term:
        return Term(text=text, line=1, column=1)

    parts = (Part(target=term(table), source=term(table), where=term(where)) for table in dict.fromkeys(tables))
    return Shape(file="--where", parts=tuple(parts))


def kept(document: Any) -> Shape | None:
    """Return a shape from what was kept with its move; None where there was none."""
    if document is None:
        return None
    from segue.model.shapes import Shape

    return Shape.model_validate(document)


def of(mover: Mover) -> Reshaper:
    """Return what drives a move to another shape; raises UsageError for one whose tables are the same."""
    if not hasattr(mover, "follow"):
        raise UsageError(
            "the servers follow this move by themselves", hint="`segue move status` shows how far the target is behind"
        )
    return cast("Reshaper", mover)
