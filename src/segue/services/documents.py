"""Make of a plan the document that a migration is decided upon: its phases, risks, tests, ways back, watch and news."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segue.services.explanations import Explanation, StepWords

#: What a step of a live move risks, beside what its locks do, and what takes care of that.
_MOVING = {
    "start": (
        "The copy reads every row, and the source's server keeps its log until the other side has read it.",
        "The copy is made in ranges by as many workers as are allowed; `segue move status` tells the log that is kept; "
        "`segue move cancel` ends it at once, with nothing changed here.",
    ),
    "switch": (
        "Writes stop until the other side has everything.",
        "When that takes longer than the budget, it is undone by itself, and the application goes on here (exit 4). A "
        "process that dies in the middle is finished or undone by `segue move switch`, with `--undo` for the latter.",
    ),
}


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence or two below it, and points; a point is a label, which may be empty, and its words."""

    title: str
    words: str
    points: tuple[tuple[str, str], ...]


def sections(found: Explanation) -> list[Section]:
    """Return the six parts of a plan's document, all told from the plan and from what is known of its target."""
    return [
        _phases(found),
        _risks(found),
        _testing(found),
        _way_back(found),
        _watching(found),
        _news(found),
    ]


def _stages(found: Explanation) -> list[tuple[str, list[StepWords]]]:
    """Return the steps by stage, in their order; one without a stage is one by itself."""
    stages: list[tuple[str, list[StepWords]]] = []
    for step in found.steps:
        if stages and step.stage and stages[-1][0] == step.stage:
            stages[-1][1].append(step)
        else:
            stages.append((step.stage or step.name, [step]))
    return stages


def _phases(found: Explanation) -> Section:
    points = []
    for number, (name, steps) in enumerate(_stages(found), 1):
        words = "; ".join(f"`{step.name}` ({step.kind}): {_first(step.description or step.does)}" for step in steps)
        waits = [step.approval for step in steps if step.approval]
        points.append((f"{number}. {name}", " ".join([words + ".", *waits])))
    beforehand = [("Beforehand", text) for text in found.beforehand]
    return Section(
        "Phases",
        f"{found.summary} {found.strategy} {found.windows}",
        (*beforehand, *points),
    )


def _risks(found: Explanation) -> Section:
    points: list[tuple[str, str]] = [("Risk", text) for text in found.risks]
    for step in found.steps:
        kind = next((words for name, words in _MOVING.items() if _is_move(step, name)), None)
        if kind is not None:
            points += [(f"Risk in `{step.name}`", kind[0]), ("Mitigation", kind[1])]
        elif step.lock and "as before" not in step.application and step.application:
            points += [(f"Risk in `{step.name}`", step.application), ("Mitigation", step.lock)]
        points += [(f"Note on `{step.name}`", text) for text in step.notes]
    points += [("Not known", f"{text}.") for text in found.unknown]
    return Section(
        "Risk assessment and mitigation",
        "What each step does to the application, and what limits it. A step that is not named reads and writes beside "
        "the application.",
        tuple(points),
    )


def _testing(found: Explanation) -> Section:
    points = []
    for name, steps in _stages(found):
        words = [f"`{step.name}`: {step.checked}" for step in steps if step.checked]
        if any(_is_move(step, "switch") for step in steps):
            words.append(
                "The switch waits until a mark that was written on the source is on the target, compares both "
                "structures, and is refused on any difference."
            )
        if words:
            points.append((name, " ".join(words)))
    moves = any(_is_move(step, "switch") for step in found.steps)
    if moves:
        points.append(
            ("Between the databases", "`segue move probe` looks whether the foreign keys that were cut still hold.")
        )
    points.append(("Rehearsal", f"`segue run {found.plan} --env ENV` on a copy of the database, and `segue rollback`."))
    return Section(
        "Testing and validation",
        "A step that fails its check counts as failed, and what needs it does not begin.",
        tuple(points),
    )


def _way_back(found: Explanation) -> Section:
    points = [(step.name, step.undone) for step in reversed(found.steps) if step.undone]
    return Section("Rollback procedures", f"{found.rollback} Undone last to first:", tuple(points))


def _watching(found: Explanation) -> Section:
    points = [
        (
            "The execution",
            "`segue status --watch`: each step, rows a second, what slows it down, when it will be done.",
        ),
        (
            "The database",
            "`segue throttle`: latency, replicas, slots, locks and their limits; work slows down by them.",
        ),
        ("For dashboards", "`segue worker --metrics` serves the same to Prometheus."),
    ]
    if any(step.kind == "move" for step in found.steps):
        points.append(
            (
                "The moves",
                "`segue move status NAME`: how far the closed side is behind, and how much log is kept for it.",
            )
        )
    for step in found.steps:
        points += [(f"Measured for `{step.name}`", text) for text in step.facts]
    return Section(
        "Performance monitoring",
        "Segue samples the target while it works, and slows down or waits before the application notices.",
        tuple(points),
    )


def _news(found: Explanation) -> Section:
    who = ", ".join(found.contacts) or "nobody is named: add `contacts` to the plan"
    points = [("To", who), ("Before", f"The phases above, when they begin, and what was approved. {found.approvals}")]
    for step in found.steps:
        if _is_move(step, "switch"):
            points.append((f"At `{step.name}`", "Writes pause for a moment; who connects elsewhere has to be told."))
        elif step.approval:
            points.append((f"At `{step.name}`", step.approval))
    points += [
        (
            "When a step fails",
            "Which one, whether anything was undone, and who decides: `segue status` says all three.",
        ),
        (
            "Afterwards",
            f"`segue status --json` of the execution, and until when it can be taken back. {found.rollback}",
        ),
        ("On record", "`segue ledger` has every action, with who did it and when."),
    ]
    return Section("Communication plan", "Who hears what, and when.", tuple(points))


def _is_move(step: StepWords, action: str) -> bool:
    return step.kind == "move" and f"action `{action}`" in step.does


def _first(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
