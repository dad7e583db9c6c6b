"""Assess plans on the databases of environments, and keep what was found with the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue import clock
from segue.errors import SegueError
from segue.model.vocabulary import Level
from segue.planning import planfile
from segue.planning.assessment import Assessment, unlooked
from segue.planning.assessment import assess as judge
from segue.planning.prediction import RANK, predict
from segue.ports import ChangingKind

if TYPE_CHECKING:
    from typing import Any

    from segue.model.online import ChangeSpec
    from segue.planning.planfile import Plan
    from segue.planning.prediction import Prediction
    from segue.ports import Parts
    from segue.settings import Settings
    from segue.store import Store
    from segue.store.tables.environments import EnvironmentRow
    from segue.store.tables.plans import PlanRow


def assess(store: Store, settings: Settings, parts: Parts, plan: Plan, env_row: EnvironmentRow, url: str) -> Assessment:
    """Look at what a plan meets on an environment's database, and keep it with the stored plan of this content.

    Takes about a second. Whatever keeps it from looking is said in the assessment, which is the prediction then: an
    assessment informs, it stops nothing.
    """
    found = look(parts, plan, env_row.name, url)
    keep(store, found)
    return found


def look(parts: Parts, plan: Plan, environment: str, url: str) -> Assessment:
    """Look at what a plan meets on a database; nothing is kept."""
    database = parts.database(url)
    prediction = predict(plan, parts.steps, database)
    digest, at = planfile.digest(plan), clock.now()
    try:
        facts = database.assess(
            url,
            schema=plan.target_schema,
            steps=[step.statements for step in prediction.steps],
            changes=_changes(plan, parts, prediction),
        )
        return judge(plan, digest, environment, prediction, facts, at)
    except SegueError as error:
        why = error.message
    except Exception as error:  # a mistake in an estimate must not keep a migration from running
        why = f"a mistake of Segue's own ({type(error).__name__}: {error})"
    return unlooked(plan, digest, environment, prediction, f"the target itself: {why}", at)


def _changes(plan: Plan, parts: Parts, prediction: Prediction) -> dict[int, ChangeSpec]:
    """Return what steps change online, by their place among the steps as they are run."""
    named = {step.name: step for step in plan.steps}
    found = {}
    for place, step in enumerate(prediction.steps):
        kind: object = parts.steps[step.kind]
        if isinstance(kind, ChangingKind):
            found[place] = kind.change(named[step.name])
    return found


def keep(store: Store, found: Assessment) -> bool:
    """Keep an assessment with the stored plan, when the plan has this content; return whether it has."""
    from sqlalchemy import select

    from segue.store.tables.plans import PlanRow

    with store.session() as session:
        query = select(PlanRow).where(PlanRow.plan_name == found.plan).with_for_update()
        row = session.scalars(query).one_or_none()
        if row is None or row.plan_hash != found.plan_hash:
            return False
        kept = _current(row)
        if not found.assessed and kept.get(found.environment, {}).get("assessed"):
            return True  # what was seen once says more than that nothing could be seen now
        kept[found.environment] = found.as_json()
        row.assessment = kept
        if not any(each.get("assessed") for each in kept.values()):
            return True
        # An empty test database must not make a plan look harmless that is not: the worst of all counts.
        seen = [each for each in kept.values() if each.get("assessed")]
        row.risk_level = max((Level(each["risk_level"]) for each in seen), key=RANK.index).value
        row.complexity = max((Level(each["complexity"]) for each in seen), key=RANK.index).value
        row.estimated_duration = max(int(each["estimated_minutes"]) for each in seen)
        return True


def kept(row: PlanRow, environment: str) -> dict[str, Any] | None:
    """Return the last assessment of a stored plan in an environment; None where its present content has none."""
    return _current(row).get(environment)


def _current(row: PlanRow) -> dict[str, dict[str, Any]]:
    """Return the assessments of a plan's present content."""
    return {
        name: found
        for name, found in (row.assessment or {}).items()
        if isinstance(found, dict) and found.get("plan_hash") == row.plan_hash
    }
