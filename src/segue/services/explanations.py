"""Put a plan into words: what each step does, what the application notices, how it is checked, undone, and may fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segue.model.impact import Duration, Lock
from segue.model.plans import Expectation, StepFields
from segue.model.quantities import count, duration, size
from segue.model.vocabulary import StepType
from segue.planning import planfile

if TYPE_CHECKING:
    from segue.planning.prediction import StepPrediction
    from segue.ports import Parts, StepKind
    from segue.services.plans import Checked
    from segue.settings import Settings
    from segue.store.tables.environments import EnvironmentRow

#: How long a lock of a class is held, in words.
_LASTS = {
    Duration.INSTANT: "for a moment (milliseconds)",
    Duration.SCAN: "for as long as it takes to read the table",
    Duration.REWRITE: "for as long as it takes to write the table anew",
    Duration.INDEX_BUILD: "for as long as it takes to build the index",
    Duration.SNAPSHOTS: "until every transaction that is older has ended",
    Duration.DATA: "until its rows are changed",
}
_STRATEGIES = {
    "online": "The application goes on working while the plan runs: each step takes only the locks that are said "
    "below.",
    "rolling": "The plan runs on several environments one after the other; each must pass its checks before the next "
    "one begins.",
    "blue-green": "The plan asks for a second database and a switch, which this version cannot do: it will be refused.",
}
#: Seconds below which the application notices nothing.
_MOMENT = 0.05


@dataclass(frozen=True, slots=True)
class StepWords:
    """One step in words; each text is one or more sentences, empty where there is nothing to say."""

    number: int
    name: str
    kind: str
    description: str
    sql: str
    needs: tuple[str, ...]
    does: str
    lock: str
    application: str
    checked: str
    undone: str
    failure: str
    approval: str
    facts: tuple[str, ...]
    notes: tuple[str, ...]
    stage: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the step for machines."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class Explanation:
    """A plan in words."""

    plan: str
    version: str
    description: str
    summary: str
    strategy: str
    beforehand: tuple[str, ...]
    approvals: str
    windows: str
    rollback: str
    risks: tuple[str, ...]
    steps: tuple[StepWords, ...]
    environment: str | None = None
    unknown: tuple[str, ...] = ()
    contacts: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the explanation for machines."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in found.items()},
            "steps": [step.as_json() for step in self.steps],
        }


def explain(
    checked: Checked, parts: Parts, *, env_row: EnvironmentRow | None = None, assessed: Mapping[str, Any] | None = None
) -> Explanation:
    """Explain a plan; with an environment as it will be there, with an assessment's facts where there is one."""
    plan, prediction = checked.plan, checked.prediction
    facts = {step["name"]: step for step in assessed["steps"]} if assessed is not None else {}
    written = {step["name"]: step for step in planfile.document(plan)["steps"]}
    params = {step.name: step for step in plan.steps}
    steps = tuple(
        _step(step, params[step.name], parts.steps[step.kind], written[step.name], facts.get(step.name), plan)
        for step in prediction.steps
    )
    return Explanation(
        plan=plan.plan,
        version=plan.version,
        description=plan.description,
        summary=_summary(checked, assessed),
        strategy=_strategy(plan),
        beforehand=(*plan.prerequisites, *(f'Plan "{name}" must be completed there.' for name in plan.depends_on)),
        approvals=_approvals(plan, env_row),
        windows=_windows(plan, env_row),
        rollback=_rollback(plan),
        risks=tuple(_sentence(reason) for reason in (assessed["reasons"] if assessed else prediction.reasons)),
        steps=steps,
        environment=env_row.name if env_row is not None else None,
        unknown=tuple(assessed["unknown"]) if assessed is not None else (),
        contacts=tuple(plan.contacts),
    )


def explain_in(
    settings: Settings, plan: str, checked: Checked | None, environment: str | None, parts: Parts
) -> tuple[Explanation, str]:
    """Explain a stored plan, or one that was read, as it is in an environment; there it is assessed, for a second.

    Where its database cannot be reached, the last assessment counts, and the second value says what was not seen.
    Raises NotFound.
    """
    from segue.services import assessments, environments, plans
    from segue.store import open_store

    with open_store(settings) as store:
        with store.session() as session:
            row = plans.get(session, plan) if checked is None else None
            if row is not None:
                checked = plans.stored(row, parts)
            assert checked is not None  # noqa: S101 - one of both is given
            if environment is None:
                return explain(checked, parts), ""
            env_row, url = environments.resolve(session, settings, environment)
            last = assessments.kept(row, environment) if row is not None else None
        found = assessments.assess(store, settings, parts, checked.plan, env_row, url)
    content = found.as_json() if found.assessed or last is None else last
    unseen = "" if found.assessed else found.unknown[0]
    return explain(checked, parts, env_row=env_row, assessed=content), unseen


# -- the plan


def _summary(checked: Checked, assessed: Mapping[str, Any] | None) -> str:
    plan, prediction = checked.plan, checked.prediction
    steps = f"{len(plan.steps)} step{'s' if len(plan.steps) != 1 else ''}"
    if assessed is None:
        minutes = f"{prediction.minutes} minute{'s' if prediction.minutes != 1 else ''}"
        told = f"risk {prediction.risk.value}, complexity {prediction.complexity.value}, about {minutes}"
        return f"It changes the schema `{plan.target_schema}` in {steps}: {told}, told from the statements alone."
    looked = "" if assessed["assessed"] else ", though its database could not be looked at"
    at = f'as of {assessed["at"][:16].replace("T", " ")} UTC in "{assessed["environment"]}"{looked}'
    return f"It changes the schema `{plan.target_schema}` in {steps}, {at}: {assessed['summary']}."


def _strategy(plan: Any) -> str:
    from segue.planning import strategies

    known = _STRATEGIES.get(plan.strategy)
    if known is not None:
        return known
    down = strategies.downtime(plan)
    if down is None:
        return f"The strategy is `{plan.strategy}`."
    how = (
        f"your command `{' '.join(down.close)}` keeps it out"
        if down.by_command
        else "its writes are refused (SQLSTATE 40001, constraint `segue_fence`), and it can read"
    )
    return (
        f"The application is kept out for at most {_time(down.seconds)}: {how}. "
        "What is not done by then is undone, and the application is let in again."
    )


def _approvals(plan: Any, env_row: EnvironmentRow | None) -> str:
    from segue.services import gates

    own = [step.name for step in plan.steps if step.approval or step.kind == "approval"]
    words = []
    if env_row is None:
        words.append("In a production environment somebody other than its author must approve it before it begins.")
    elif gates.needs_approval(env_row):
        words.append(
            f'"{env_row.name}" is a production environment: somebody other than its author must approve it first '
            f"(`segue approve {plan.plan} --env {env_row.name} --reason TEXT`)."
        )
    else:
        words.append(f'Nobody has to approve it as a whole in "{env_row.name}".')
    if own:
        many = "waits" if len(own) == 1 else "wait"
        words.append(f"{_listed([f'`{name}`' for name in own])} {many} for a person's approval when it comes to that.")
    return " ".join(words)


def _windows(plan: Any, env_row: EnvironmentRow | None) -> str:
    if env_row is None:
        return (
            "Where an environment has a window, it begins only when it fits into what is left of it, and pauses at "
            "the next safe point when it closes."
        )
    if env_row.maintenance_window is None:
        return f'"{env_row.name}" has no window: it may run at any time.'
    return (
        f'The window of "{env_row.name}" is {env_row.maintenance_window}: it begins only when it fits into what is '
        "left of it, and pauses at the next safe point when it closes."
    )


def _rollback(plan: Any) -> str:
    words = [_sentence(plan.rollback.description)]
    if plan.rollback.on_failure == "rollback":
        words.append("When a step fails, everything is undone by itself.")
    else:
        words.append("When a step fails, everything stays as it is: `segue run` again goes on there.")
    if plan.rollback.window is not None:
        words.append(f"It can be taken back for {_time(plan.rollback.window)} after it was completed.")
    else:
        words.append("`segue rollback` takes it back at any time.")
    return " ".join(words)


# -- a step


def _step(
    step: StepPrediction,
    params: Any,
    kind: StepKind,
    written: Mapping[str, Any],
    facts: Mapping[str, Any] | None,
    plan: Any,
) -> StepWords:
    walks = step.step_type == StepType.DATA_MIGRATION and bool(step.statements)
    lock = Lock(facts["lock"] or "") if facts is not None else step.lock
    held = Duration(facts["duration_class"]) if facts is not None else step.duration
    # What stands for the locks that a step takes is nothing that it sends.
    locks = bool(step.statements) and all(one.verb == "LOCK TABLE" for one in step.statements)
    sent = step.step_type == StepType.SCHEMA_CHANGE and bool(step.statements) and not (locks and kind.kind != "sql")
    return StepWords(
        number=step.number,
        name=step.name,
        kind=step.kind,
        description=params.description,
        sql=_sent(step, whole=sent) if sent or not locks else "",
        needs=tuple(params.needs),
        does=_does(step, params, kind, written, walks=walks, sent=sent),
        lock=_lock(step, params, kind, lock, held, facts, walks=walks),
        application=_application(step, kind, lock, held, facts, walks=walks),
        checked=_checked(step, params, sent=sent),
        undone=_undone(step, params, kind),
        failure=_failure(params, plan),
        approval=_step_approval(params, plan),
        facts=tuple(_facts(facts)) if facts is not None else (),
        notes=tuple(_sentence(note) for note in (facts["notes"] if facts is not None else step.notes)),
        stage=params.stage,
    )


def _sent(step: StepPrediction, *, whole: bool) -> str:
    return ";\n".join(one.sql for one in step.statements) + (";" if whole and len(step.statements) > 1 else "")


def _does(
    step: StepPrediction, params: Any, kind: StepKind, written: Mapping[str, Any], *, walks: bool, sent: bool
) -> str:
    if sent:
        number = len(step.statements)
        if number == 1:
            return "Sends one statement, once, however often the plan is run."
        together = bool(getattr(params, "transaction", False))
        how = "in one transaction" if together else "one after the other, each in its own transaction"
        return f"Sends {number} statements {how}, each once, however often the plan is run."
    if step.statements and not kind.effects:
        return "Asks the target; nothing is changed."
    first = (type(params).__doc__ or "").strip().split("\n")[0].rstrip(".")
    first = first.partition(" for exactly one of")[0]  # which one it is, its field says
    own = _own_fields(params, written)
    said = f"{first}: {own}." if own else f"{first}."
    if walks:
        return f"{said} The table is walked along its key in short transactions, and goes on where it stopped."
    return said


def _own_fields(params: Any, written: Mapping[str, Any]) -> str:
    """Return the fields of a step that are its kind's own, in the file's words; its SQL is shown by itself."""
    common = {field.alias or name for name, field in StepFields.model_fields.items()}
    hidden = common | {"sql", "query", "reverse", "scalar", "row", "rows", "tolerance", "written", "content"}
    named = {field.alias: name for name, field in type(params).model_fields.items() if field.alias}
    shown = []
    for name, value in written.items():
        if name in hidden:
            continue
        if isinstance(value, Mapping):
            sign = " = " if all(isinstance(each, str) for each in value.values()) else " "
            text = ", ".join(f"{key}{sign}{each}" for key, each in value.items())
        elif isinstance(getattr(params, named.get(name, name), None), float):
            text = _time(value)
        else:
            text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        text = " ".join(text.split())
        shown.append(f"{name} `{text[:120] + '…' if len(text) > 120 else text}`")
    return ", ".join(shown)


def _lock(
    step: StepPrediction,
    params: Any,
    kind: StepKind,
    lock: Lock,
    held: Duration,
    facts: Mapping[str, Any] | None,
    *,
    walks: bool,
) -> str:
    if not step.statements:
        return "Whatever its program takes: Segue cannot tell." if kind.effects else ""
    if lock is Lock.NONE:
        return "None on a table that others use."
    tables = _tables(step, lock, facts)
    where = f" on {tables}" if tables else ""
    if walks:
        return f"{lock.value}{where}, and a lock on the rows of one batch at a time."
    if lock.rank < Lock.SHARE_UPDATE_EXCLUSIVE.rank:
        return f"{lock.value}{where}, as any query of the application takes."
    lasts = _LASTS[held]
    seconds = facts["held_seconds"] if facts is not None else None
    if seconds is not None and lock.rank >= Lock.SHARE.rank:
        lasts = f"for about {_time(seconds)}" if seconds >= _MOMENT else _LASTS[Duration.INSTANT]
    tried = getattr(params, "lock_timeout", None)
    if not tried:
        return f"{lock.value}{where}, {lasts}."
    slices = f"It is tried in short slices for up to {_time(tried)}, so that nobody queues behind it."
    return f"{lock.value}{where}, {lasts}. {slices}"


def _tables(step: StepPrediction, lock: Lock, facts: Mapping[str, Any] | None) -> str:
    if facts is not None:
        names = [one["table"] for one in facts["tables"] if one["lock"] == lock.value]
    else:
        names = [held.table for one in step.statements for held in one.locks if held.lock is lock]
    return _listed(list(dict.fromkeys(names)))


def _application(
    step: StepPrediction,
    kind: StepKind,
    lock: Lock,
    held: Duration,
    facts: Mapping[str, Any] | None,
    *,
    walks: bool,
) -> str:
    if not step.statements and kind.effects:
        return "What its program does, decides."
    if walks:
        return "It reads and writes as before; a write to a row of the batch at work waits for the end of that batch."
    if lock.rank < Lock.SHARE.rank:
        return "It reads and writes as before."
    tables = _tables(step, lock, facts) or "the table"
    seconds = facts["held_seconds"] if facts is not None else None
    if seconds is not None:
        long = f"about {_time(seconds)}" if seconds >= _MOMENT else "a moment"
    else:
        long = "a moment" if held is Duration.INSTANT else _LASTS[held].removeprefix("for ")
    can = "It can neither read nor write" if lock is Lock.ACCESS_EXCLUSIVE else "It can read, but not write,"
    queue = (facts or {}).get("would_queue") or {}
    waiting = f" About {count(queue['statements'])} of its statements would wait." if queue.get("statements") else ""
    how_long = long if long.startswith("until") else f"for {long}"
    return f"{can} {tables} {how_long}; it waits, nothing fails.{waiting}"


def _checked(step: StepPrediction, params: Any, *, sent: bool) -> str:
    said = params.check_after
    if said is None and isinstance(params, Expectation):
        said = params
    if said is not None:
        asked = " ".join(said.query.split())
        return f"`{asked}` must give {_expected(said)}."
    if sent:
        return "That each statement took effect is written down in the target, in its own transaction."
    if step.step_type == StepType.DATA_MIGRATION and step.statements:
        return "Each batch and how far it came are written in one transaction."
    return ""


def _expected(said: Expectation) -> str:
    for form in ("scalar", "row", "rows"):
        if form in said.model_fields_set:
            value = getattr(said, form)
            near = f", {said.tolerance:.0%} more or less" if said.tolerance else ""
            return f"{'nothing (NULL)' if value is None else value}{near}"
    return "what is expected"


def _undone(step: StepPrediction, params: Any, kind: StepKind) -> str:
    why = kind.irreversible(params)
    if why:
        return f"It cannot be: {_sentence(why)}"
    if step.reverse:
        sql = "; ".join(" ".join(one.sql.split()) for one in step.reverse)
        if kind.kind != "sql" and all(one.verb == "LOCK TABLE" for one in step.reverse):
            return "By itself, with all that was written since; the locks for it are tried in short slices."
        lock = max((one.lock for one in step.reverse), key=lambda one: one.rank)
        blocks = f" ({lock.value})" if lock.rank >= Lock.SHARE.rank else ""
        return f"`{sql}`{blocks}."
    if step.undo == "values stay":
        return "The values stay, or go with their column."
    return "Nothing is changed, so there is nothing to undo." if step.undo == "nothing to undo" else f"{step.undo}."


def _failure(params: Any, plan: Any) -> str:
    words = []
    if params.retries:
        times = "once" if params.retries == 1 else f"{params.retries} times, later each time"
        words.append(f"It is tried again {times}, first after {_time(params.backoff)}.")
    words.append(f"It may take {_time(params.timeout)}.")
    if not params.blocking:
        words.append("A failure is a warning: the migration goes on without what needs this step.")
    elif plan.rollback.on_failure == "rollback":
        words.append("A failure undoes all that was done (exit 4).")
    else:
        words.append("A failure stops the migration there.")
    return " ".join(words)


def _step_approval(params: Any, plan: Any) -> str:
    if not params.approval and params.kind != "approval":
        return ""
    return f"It waits for `segue approve {plan.plan} --env ENV --step {params.name} --reason TEXT`."


def _facts(facts: Mapping[str, Any]) -> list[str]:
    """Return what an assessment found of a step, in sentences."""
    found = []
    if facts["does"]:
        took = f" ≈ {duration(facts['seconds'])}" if facts["seconds"] and facts["seconds"] >= _MOMENT else ""
        much = f", {size(facts['bytes'])} in all" if facts["bytes"] and "in all" not in facts["does"] else ""
        found.append(_sentence(f"{facts['does']}{took}{much}"))
    change = facts.get("change")
    if change and change["reasons"]:
        found.append(_sentence(f"It is done as {change['strategy']}: {'; '.join(change['reasons'])}"))
    if change and change["seconds"]:
        parts = ", ".join(f"{name} {duration(value)}" for name, value in change["seconds"].items())
        found.append(f"Of that: {parts}; longer while limits slow it down.")
        found.append(f"It needs about {size(change['disk_bytes'])} of disk, and as much of WAL is written.")
    found += [_sentence(f"It would be refused: {why}") for why in (change or {}).get("refused", [])]
    for table in facts["tables"]:
        if table["why"] != "named by the statement":
            found.append(f"{table['table']} is locked too ({table['lock']}): {table['why']}.")
    for holder in facts["waits_for"]:
        since = f" for {duration(holder['seconds'])}" if holder["seconds"] is not None else ""
        who = ", ".join(word for word in (holder["application"], holder["role"], holder["state"]) if word)
        found.append(f"It would wait now for pid {holder['pid']} ({who}){since}.")
    found += [f"It fires {name}." for name in facts["triggers"]]
    found += [f"{name} goes along." for name in facts["depends"]]
    found += [f"It would fail: {why}." for why in facts["fails"]]
    return found


def _time(seconds: float) -> str:
    return duration(seconds).removesuffix(" 0 s").removesuffix(" 0 m")


def _listed(words: list[str]) -> str:
    if len(words) > 4:
        return f"{', '.join(words[:3])} and {len(words) - 3} more"
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if not text or text[-1] in ".!?" else text + "."
