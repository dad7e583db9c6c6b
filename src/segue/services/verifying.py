"""Two databases compared, and repaired where that is asked; a repair is in the ledger."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from segue.errors import UsageError
from segue.planning.expressions import is_expression

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segue.model.verifying import TableVerdict, VerifySpec
    from segue.ports import Database
    from segue.services.databases import Located
    from segue.settings import Settings
    from segue.store import Store


def verify(
    a: Located,
    b: Located,
    spec: VerifySpec,
    database: Callable[[str], Database],
    note: Callable[[str], None],
    *,
    repair: Callable[[Sequence[TableVerdict]], bool] | None = None,
) -> list[TableVerdict]:
    """Compare, and return a verdict for each pair of tables.

    `repair` is asked with those that differ; when it agrees, the rows that were found are written to the second side,
    and compared again.
    """
    if a.url == b.url and any(mine == theirs for mine, theirs in spec.tables or (("", ""),)):
        raise UsageError(
            "both sides are the same database", hint="name pairs of tables to compare there: --table old=new"
        )
    kind = database(a.url)
    if spec.where is not None and not is_expression(spec.where, kind):
        raise UsageError("--where holds no condition", hint="write one condition, as after WHERE in SQL")
    verifier = kind.verifier(a.url, b.url, spec.jobs)
    try:
        found = list(verifier.verdicts(spec, note))
        unlike = [one for one in found if one.differences]
        if not unlike or repair is None or not repair(unlike):
            return found
        repaired = {one.name: verifier.repair(one) for one in unlike}
        pairs = tuple((one.name, one.other) for one in unlike)
        again = {one.name: one for one in verifier.verdicts(replace(spec, tables=pairs), note)}
        return [replace(again[one.name], repaired=repaired[one.name]) if one.name in again else one for one in found]
    finally:
        verifier.close()


def report(a: Located, b: Located, found: Sequence[TableVerdict]) -> dict[str, Any]:
    """Return what was found as JSON values."""
    return {
        "ok": all(one.equal for one in found),
        "a": a.name,
        "b": b.name,
        "tables": [{**asdict(one), "equal": one.equal} for one in found],
    }


def record(store: Store, settings: Settings, a: Located, b: Located, found: Sequence[TableVerdict]) -> None:
    """Write a repair to the ledger."""
    from segue.store import ledger

    detail = {"from": a.name, "tables": {one.name: one.repaired for one in found if one.repaired}}
    if detail["tables"]:
        with store.session() as session:
            ledger.append(
                session, actor=settings.user, action="repaired", subject="databases", subject_id=b.name, detail=detail
            )
