"""Drives one execution on one target: steps in order, each once, forwards or back, from wherever it stands."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.engine import journal
from segue.engine.changes import Change, altered
from segue.engine.control import CancelRequested, Control, Halted, MustWait, PauseRequested
from segue.engine.expectation import meets, wanted
from segue.engine.gates import Gates, Open
from segue.engine.jobs import Job
from segue.engine.monitor import Monitor
from segue.engine.shelter import Shelter
from segue.errors import (
    CannotTell,
    Differences,
    DriftFound,
    FenceLost,
    InternalError,
    Interrupted,
    LockNotGranted,
    SafelyUndone,
    SegueError,
    StepFailed,
    StepRefused,
    TargetError,
    TargetUnreachable,
)
from segue.model.lifecycles import ExecutionStatus, StepRunStatus
from segue.model.online import Alteration
from segue.model.quantities import duration
from segue.model.vocabulary import ChangeType
from segue.model.windows import Window
from segue.ports import BACKWARD, FORWARD, Approved, EffectKey, Observed, Pace, Patience

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segue.engine.record import Record
    from segue.model.fences import Downtime
    from segue.model.impact import Statement
    from segue.model.plans import StepFields
    from segue.ports import ChunkedWork, Database, JobRecord, StepKind, Target, Throttle
    from segue.ports.moving import Moves
    from segue.ports.online import ChangeRecord
    from segue.store import Store

# How long to try to reach a target again that went away in the middle of a run, and how often in one step.
RECOVERY_SECONDS = 30.0
RECOVERIES = 5
DEFAULT_LOCK_SECONDS = 60.0
# How many steps run side by side at most: each has sessions of its own on the target.
SIDE_BY_SIDE = 4
# When a target that cannot be reached is tried again, by an execution that workers drive.
TARGET_AGAIN = timedelta(seconds=10)
# How old what people have set for a run may be before it is read again.
TUNED_SECONDS = 0.8


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step with its number in the plan (from 1, in the plan's order) and its kind."""

    number: int
    params: StepFields
    kind: StepKind


@dataclass(frozen=True, slots=True)
class Assignment:
    """What an executor works on. `steps` are in dependency order.

    `throttle` says how fast data work may go; `ask_slots` asks other workers for copy slots, given step, direction and
    how many; `drain` is set when this process is to give its work away. `downtime` says how long the application may
    be kept out, and how.
    """

    execution: str
    environment: str
    plan: str
    plan_id: str
    plan_hash: str
    schema: str
    job_prefix: str
    steps: Sequence[PlannedStep]
    undo_on_failure: bool = False
    rollback_window: float | None = None
    accept_drift: bool = False
    resolve: Observed | None = None
    handed_over: bool = False
    downtime: Downtime | None = None
    gates: Gates = field(default_factory=Open)
    throttle: Throttle | None = None
    ask_slots: Callable[[str, str, int], None] | None = None
    drain: threading.Event | None = None
    moves: Moves | None = None


class StepRun:
    """See `segue.ports.StepRun`: one attempt of one step in one direction."""

    def __init__(self, executor: Executor, step: PlannedStep, direction: str, target: Target | None = None) -> None:
        self.params: Any = step.params
        self.direction = direction
        self.target: Target = target or executor.target
        self.database: Database = executor.database
        self._executor = executor
        self._step = step
        self._deadline = clock.ticks() + step.params.timeout

    @property
    def patience(self) -> Patience:
        """Return how long locks may be tried for, and how long is left for the work."""
        left = max(0.1, self._deadline - clock.ticks())
        patience = Patience(locks=min(left, getattr(self.params, "lock_timeout", DEFAULT_LOCK_SECONDS)), work=left)
        return self._executor.shelter.within(patience, effects=self._step.kind.effects)

    def key(self, part: int, direction: str | None = None) -> EffectKey:
        """Name a part of this step."""
        work = self._executor.work
        return EffectKey(work.execution, work.plan, work.plan_hash, self.params.name, direction or self.direction, part)

    def do(self, part: int, statements: Sequence[Statement]) -> None:
        """Bring about one effect, once."""
        self._told(self.target.apply, self.key(part), statements)

    def settle(self, part: int, statements: Sequence[Statement]) -> None:
        """Bring an effect of the way forward that was only begun to done or not there."""
        self._told(self.target.settle, self.key(part, FORWARD), statements)

    def _told(self, act: Callable[..., None], key: EffectKey, statements: Sequence[Statement]) -> None:
        """Act; a person's word decides only where the target cannot tell."""
        resolve = self._executor.work.resolve
        try:
            act(key, statements, self.patience, self.note)
        except CannotTell:
            # A person has seen what an earlier process left, not what this one did.
            if resolve is None or self.target.programs().begun(key) == self.target.fence:
                raise
            self.target.resolve(key, resolve)
            self.note(f"taken as {resolve.value} on a person's word: {statements[0].verb}")
            act(key, statements, self.patience, self.note)

    def boundary(self) -> None:
        """Stop here when somebody asks for it, or when the step's time is over."""
        self._executor.control.boundary()
        if clock.ticks() > self._deadline:
            raise StepFailed(
                f'step "{self.params.name}" took longer than its timeout of {duration(self.params.timeout)}',
                hint="what is done stays done; raise `timeout` and run again",
            )

    def began(self) -> datetime:
        """Return when the step began for the first time, in whichever process."""
        return self._executor.record.began(self._step.number, self.direction)

    def resolved(self) -> Observed | None:
        """Return what a person says of an effect that cannot be told."""
        return self._executor.work.resolve

    def keep(self, **detail: Any) -> None:
        """Keep facts about this run of the step."""
        self._executor.record.keep(self._step.number, self.direction, detail)

    def approval(self) -> Approved | None:
        """Return the approval of this step that counts now."""
        return self._executor.work.gates.approval(self.params.name)

    def pace(self) -> Pace:
        """Return how fast data work may go now."""
        throttle = self._executor.work.throttle
        return throttle.pace() if throttle is not None else Pace()

    def slots(self, wanted: int) -> int:
        """Ask other workers for copy slots, all but one; return how many labour here."""
        ask = self._executor.work.ask_slots
        if ask is None:
            return wanted
        if wanted > 1:
            ask(self.params.name, self.direction, wanted - 1)
        return 1

    def note(self, message: str, **detail: Any) -> None:
        """Say something, in the log and to whoever watches."""
        validation = detail.pop("validation", None)
        if validation is not None:
            self._executor.record.validation(
                validation,
                step=self.params.name,
                tolerance=getattr(self.params, "tolerance", 0.0),
                blocking=self.params.blocking,
            )
        self._executor.record.log("note", message, step=self.params.name, **detail)

    def recording(self, work: ChunkedWork, table: str, settings: Mapping[str, Any]) -> JobRecord:
        """Open the store's record of chunked work."""
        executor = self._executor
        suffix = "" if self.direction == FORWARD else "/rollback"
        job = Job(
            executor.record,
            work,
            name=f"{executor.work.job_prefix}/{self.params.name}{suffix}",
            plan_id=executor.work.plan_id,
            step=self.params.name,
            table=table,
            settings=settings,
        )
        job.on_rows = executor.count_rows
        return job

    def changing(
        self,
        spec: Mapping[str, Any],
        *,
        table: str,
        kind: str | None = None,
        column: str | None = None,
        index: str | None = None,
        retention_days: int = 7,
    ) -> ChangeRecord:
        """Open the store's record of an online change."""
        executor = self._executor
        throttle = executor.work.throttle
        return Change(
            executor.store,
            executor.record,
            name=f"{executor.work.job_prefix}/{self.params.name}",
            step=self.params.name,
            spec=spec,
            table=table,
            alterations=[Alteration(ChangeType(kind), column, index)] if kind else altered(spec, self.database),
            retention_days=retention_days,
            throttle=throttle.status if throttle is not None else dict,
        )

    def moves(self) -> Moves:
        """Return the moves to and from this environment."""
        moves = self._executor.work.moves
        if moves is None:
            raise InternalError("a step moves tables, and nobody has said from where")
        return moves

    def tuned(self) -> Mapping[str, Any]:
        """Return what people have set for this execution while it runs."""
        return self._executor.tuned()


class Executor:
    """Drives an execution until it is completed, rolled back, stopped, or failed."""

    def __init__(self, store: Store, record: Record, target: Target, database: Database, work: Assignment) -> None:
        self.store = store
        self.record = record
        self.target = target
        self.database = database
        self.work = work
        words = {"SEGUE_EXECUTION": work.execution, "SEGUE_PLAN": work.plan, "SEGUE_ENVIRONMENT": work.environment}
        self.shelter = Shelter(target, record, work.downtime, words=words)
        self.control = Control(record.requests, self._alive, gate=self._gate, drain=work.drain)
        self._monitor: Monitor | None = None
        self._tuning: Mapping[str, Any] = {}
        self._tuned_at: float | None = None
        self._tuning_lock = threading.Lock()

    def tuned(self) -> Mapping[str, Any]:
        """Return what people have set for this execution; while the store is away, what was known last."""
        with self._tuning_lock:
            now = clock.ticks()
            if self._tuned_at is None or now - self._tuned_at >= TUNED_SECONDS:
                with suppress(TargetUnreachable):
                    self._tuning = self.record.tuning()
                self._tuned_at = now
            tuning = self._tuning
        if tuning.get("cutover") != "now" and tuning.get("window"):
            # While its window is open a change may swap as if somebody had said so just now.
            opened = Window.parse(tuning["window"]).open_at(clock.now()) is not None
            return {**tuning, "cutover": "now" if opened else "postponed"}
        return tuning

    def count_rows(self, rows: int) -> None:
        """Count rows written, for the metrics."""
        if self._monitor is not None:
            self._monitor.wrote(rows)

    def _alive(self) -> None:
        self.target.alive()
        self.shelter.boundary()

    def _gate(self) -> None:
        try:
            self.work.gates.boundary()
        except (MustWait, TargetUnreachable) as error:
            # While the application is kept out that time counts, and no other window; a person's word does.
            if not self.shelter.closed:
                raise
            if isinstance(error, MustWait) and error.kind == "approval":
                raise CancelRequested(error.message, hint=error.hint) from error

    # -- the two ways

    def forward(self) -> None:
        """Run every step that is not done.

        Raises what stopped it. When a blocking step fails and the plan says so, everything is undone first, and
        SafelyUndone is raised.
        """
        with self._monitored():
            self._begin(FORWARD)
            try:
                self._check_drift()
                self._keep_out(FORWARD)
                self._run_to_the_end()
                self.shelter.leave()
            except BaseException as error:
                if not self._may_undo(error):
                    self._stopped(error)
                    raise
                self.record.log("undoing", f"undoing everything: {error}", level="warning")
                failure = error
            else:
                self.record.end(ExecutionStatus.COMPLETED, metrics=self._metrics(), **self._window())
                self.record.tell("completed", "completed")
                return
            self._undo_everything()
            raise SafelyUndone(
                f"the migration failed and was undone: {failure}",
                details=getattr(failure, "details", []),
                hint="correct the cause and run again; nothing of it is left on the target",
            ) from failure

    def backward(self) -> None:
        """Undo, last first, every step that may have had an effect."""
        with self._monitored():
            self._undo_everything()

    def _undo_everything(self) -> None:
        self.control.ungate()
        self._begin(BACKWARD)
        try:
            self._check_drift()
            self._keep_out(BACKWARD)
            self._undo_steps()
            self.shelter.leave()
        except BaseException as error:
            self._stopped(error)
            raise
        self.record.end(ExecutionStatus.ROLLED_BACK, metrics=self._metrics(), window_until=None)
        self.record.tell("rolled-back", "rolled back")

    def _keep_out(self, direction: str) -> None:
        """Keep the application out, where the plan says so and there is something to do."""
        forward = self.record.step_runs(FORWARD)
        if direction == FORWARD:
            needed = any(run.status != StepRunStatus.COMPLETED for run in forward.values())
        else:
            untouched = (StepRunStatus.PENDING, StepRunStatus.SKIPPED, StepRunStatus.UNDONE)
            needed = any(forward[step.number].status not in untouched and step.kind.effects for step in self.work.steps)
        self.shelter.enter(direction, needed=needed, before=self._ask_approvals if direction == FORWARD else _nothing)
        if self.shelter.closed:
            # On the way back whoever asked for a stop has it: what is undone is what was stopped.
            self.control.heed(drain=False, requests=direction == FORWARD)

    def _ask_approvals(self) -> None:
        """Raise MustWait for an approval that a step will ask for: it must be there before anybody is kept out."""
        self.control.boundary()
        for step in self.work.steps:
            name = step.params.name
            if (step.params.approval or step.kind.kind == "approval") and self.work.gates.approval(name) is None:
                raise MustWait(
                    "approval",
                    f'step "{name}" needs an approval before the application is kept out',
                    hint=self._how_to_approve(name),
                    step=name,
                )

    # -- beginning and ending

    def _begin(self, direction: str) -> None:
        self.record.begin(direction=direction, fence=self.target.fence)
        steps = [(step.number, step.params.name, step.kind.kind) for step in self.work.steps]
        # Both ways for an undo: a process killed at its very beginning has not made the rows of its own.
        for way in dict.fromkeys((FORWARD, direction)):
            self.record.open_steps(steps, way)
        for who in self.target.taken_over:
            self.record.log("took-over", f"ended a session that an earlier run left behind: {who}", level="warning")
        self.target.taken_over.clear()

    @contextmanager
    def _monitored(self) -> Iterator[None]:
        """Have the target looked at while the run goes on, and keep Ctrl-C for the next safe point."""
        self._monitor = Monitor(self.target, self.record.measured, throttle=self.work.throttle, say=self._say_throttled)
        try:
            with self.control.signals(lambda words: self.record.tell("stopping", words)):
                yield
        finally:
            self._monitor.close()
            self._monitor = None

    def _say_throttled(self, action: str, message: str) -> None:
        self.record.log(action, message, level="warning" if action == "throttle-stopped" else "info")

    def _metrics(self) -> dict[str, Any]:
        measured = self._monitor.metrics() if self._monitor is not None else {}
        return {**measured, **self.shelter.metrics()}

    def _window(self) -> dict[str, Any]:
        if self.work.rollback_window is None:
            return {}
        return {"window_until": clock.now() + timedelta(seconds=self.work.rollback_window)}

    def _may_undo(self, error: BaseException) -> bool:
        if self.shelter.closed:
            return self.shelter.must_undo(error)
        return self.work.undo_on_failure and isinstance(error, StepFailed | Differences | LockNotGranted | TargetError)

    def _stopped(self, error: BaseException) -> None:
        """Write down why the run stops here."""
        if isinstance(error, FenceLost):
            return  # the execution is another process's by now; so is its record
        if words := self.shelter.still_closed():
            if isinstance(error, SegueError):
                error.details = [words, *error.details]
            else:
                self.record.log("fence-kept", words, level="warning")
            if isinstance(error, KeyboardInterrupt):
                return  # as a killed process leaves it, so that a worker takes it over
        said = _describe(error)
        if isinstance(error, TargetUnreachable) and self.work.handed_over:
            error = MustWait(
                "target", error.message, due=clock.now() + TARGET_AGAIN, hint="it is tried again by itself"
            )
        if isinstance(error, MustWait):
            if error.step is None:  # that a step waits was said when it began to
                self.record.log("waiting", error.message, waiting=error.as_waiting())
            self.record.end(
                ExecutionStatus.WAITING, metrics=self._metrics(), waiting_for=error.as_waiting(), due_at=error.due
            )
            return
        if isinstance(error, PauseRequested | Interrupted | KeyboardInterrupt):
            status = ExecutionStatus.PAUSED
        elif isinstance(error, CancelRequested):
            status = ExecutionStatus.CANCELLED
        else:
            status = ExecutionStatus.FAILED
        self.record.log(str(status), said["message"] or str(status), level="error" if status == "failed" else "info")
        self.record.end(status, error=said, metrics=self._metrics())

    def _check_drift(self) -> None:
        found = self.target.drift(self.work.schema)
        if found is None:
            return
        if self.work.accept_drift:
            self.record.log(
                "drift-accepted",
                f'accepted changes in schema "{self.work.schema}"',
                level="warning",
                changes=found.changes,
            )
            self.target.remember(self.work.schema, None)
            return
        raise DriftFound(
            f'schema "{self.work.schema}" was changed by somebody else since Segue left it at {found.since}',
            details=found.changes,
            hint="look at the changes; if they are meant to be there, run again with `--accept-drift`",
        )

    # -- forwards

    def _run_to_the_end(self) -> None:
        """Run the steps; with the application kept out, a wait is sat out here."""
        while True:
            try:
                self._run_steps()
            except MustWait as wait:
                if not self.shelter.closed:
                    raise
                self.shelter.wait(wait, self.control.boundary)
            else:
                return

    def _run_steps(self) -> None:
        """Run what is ready until nothing is: steps that may, side by side, others alone, in the plan's order."""
        runs = self.record.step_runs(FORWARD)
        progress = _Progress(list(self.work.steps))
        for step in self.work.steps:
            if runs[step.number].status == StepRunStatus.COMPLETED:
                self._confirm(step)
                progress.ended(step)
        while (ready := progress.ready()) is not None:
            for step, missing in progress.skipped():
                self.record.step(step.number, FORWARD, StepRunStatus.SKIPPED, detail={"because": missing})
                self.record.log(
                    "step-skipped",
                    f"skipped, because {', '.join(missing)} failed",
                    step=step.params.name,
                    level="warning",
                )
            if not ready:
                continue
            self.control.boundary()
            together = [step for step in ready if step.kind.parallel]
            if not ready[0].kind.parallel or len(together) == 1:
                self._run_one(ready[0], progress)
            else:
                self._run_side_by_side(progress)
        if progress.waiting:
            raise _earliest(progress.waiting)

    def _run_one(self, step: PlannedStep, progress: _Progress) -> None:
        progress.begun(step)
        try:
            passed = self._run_step(step, self.target)
        except MustWait as wait:
            self._waits(step, wait, progress)
            return
        progress.ended(step, failed=not passed and step.kind.effects)

    def _waits(self, step: PlannedStep, wait: MustWait, progress: _Progress) -> None:
        """Let one step wait while others go on; raise when it is the whole run that must."""
        if wait.whole:
            raise wait
        if wait.kind == "approval":
            wait.hint = self._how_to_approve(step.params.name)
        self.record.step(step.number, FORWARD, StepRunStatus.WAITING, detail={"waiting_for": wait.as_waiting()})
        self.record.log("step-waiting", wait.message, step=step.params.name)
        wait.step = wait.step or step.params.name
        progress.waits(wait)

    def _how_to_approve(self, step: str) -> str:
        work = self.work
        go_on = "" if work.handed_over else f"; then `segue run {work.plan} --env {work.environment}` goes on"
        return f"`segue approve {work.plan} --env {work.environment} --step {step} --reason TEXT` gives it{go_on}"

    def _run_side_by_side(self, progress: _Progress) -> None:
        """Run every ready step that may run beside others, each in a thread with sessions of its own."""
        outcomes: queue.SimpleQueue[tuple[PlannedStep, bool | BaseException]] = queue.SimpleQueue()

        def work(step: PlannedStep) -> None:
            try:
                with self.target.branch() as target:
                    outcomes.put((step, self._run_step(step, target)))
            except BaseException as error:  # handed to the thread that waits for it
                outcomes.put((step, error))

        running = 0
        failure: BaseException | None = None
        try:
            while True:
                ready = [step for step in progress.ready() or () if step.kind.parallel]
                while ready and failure is None and running < SIDE_BY_SIDE:
                    step = ready.pop(0)
                    progress.begun(step)
                    threading.Thread(target=work, args=(step,), name=f"segue {step.params.name}", daemon=True).start()
                    running += 1
                if not running:
                    break
                try:
                    step, outcome = outcomes.get(timeout=0.2)
                except queue.Empty:
                    # A step beside it may have taken the lease again, and with it ended this thread's own sessions.
                    self.target.refresh()
                    continue
                running -= 1
                if isinstance(outcome, MustWait) and not outcome.whole:
                    self._waits(step, outcome, progress)
                elif isinstance(outcome, BaseException):
                    if failure is None or isinstance(failure, Halted):
                        failure = outcome
                    self.control.halt()
                else:
                    progress.ended(step, failed=not outcome and step.kind.effects)
        except BaseException:
            self.control.halt()
            raise
        self.control.go_on()
        self.target.refresh()
        if failure is not None:
            raise failure

    def _confirm(self, step: PlannedStep) -> None:
        """Ask the target about a step that the store says is done: it may have been set back behind our back."""
        if not self._shown(step):
            raise CannotTell(
                f'step "{step.params.name}" was completed, but the target does not show it',
                hint="was the target restored from a backup? Roll this execution back or start from a target that fits",
            )

    def _shown(self, step: PlannedStep) -> bool:
        """Return whether the target shows that a step took place; a question takes none."""
        return not step.kind.effects or step.kind.observe(StepRun(self, step, FORWARD)) is Observed.DONE

    def _not_there(self, step: PlannedStep) -> None:
        """Pass over the undo of a step that the target does not show, on a person's word alone."""
        name = step.params.name
        if self.work.resolve is not Observed.NOT_DONE:
            raise CannotTell(
                f'step "{name}" was completed, but the target does not show it: what to undo cannot be told',
                hint="is this another database, one restored from a backup, or was `segue env clean` run? Look at it; "
                "where the step's effect is not there, `segue rollback EXECUTION --resolve not-done` passes over it",
            )
        self.record.log("not-there", "taken as not done on a person's word", step=name, level="warning")
        self.record.step(step.number, FORWARD, StepRunStatus.UNDONE)
        self.record.step(step.number, BACKWARD, StepRunStatus.SKIPPED)

    def _run_step(self, step: PlannedStep, target: Target) -> bool:
        """Run one step with its retries; return False when it failed and that only warns."""
        name = step.params.name
        self.record.step(step.number, FORWARD, StepRunStatus.RUNNING)
        self.record.log("step-started", f"{step.kind.kind} step begins", step=name)
        began = clock.ticks()
        waits = (target.waits.slices, target.waits.seconds)
        try:
            with self.shelter.effect(name) if step.kind.effects else nullcontext():
                self._attempts(step, FORWARD, target)
        except (StepFailed, Differences, LockNotGranted, TargetError) as error:
            status = StepRunStatus.FAILED if step.params.blocking else StepRunStatus.WARNED
            self.record.step(step.number, FORWARD, status, error=_describe(error))
            level = "error" if step.params.blocking else "warning"
            self.record.log(
                f"step-{status}", error.message, step=name, level=level, details=error.details, kind=step.kind.kind
            )
            self._remember(step, target)
            if step.params.blocking:
                raise
            return False
        except (PauseRequested, CancelRequested, Interrupted, Halted, MustWait):
            # What the step did so far is ours.
            self._remember(step, target)
            raise
        except (KeyboardInterrupt, FenceLost):
            raise
        except SegueError as error:
            self.record.step(step.number, FORWARD, StepRunStatus.FAILED, error=_describe(error))
            raise
        self._remember(step, target)
        journal.point("schema-remembered")
        self.shelter.hold(name, target)
        slices = target.waits.slices - waits[0]
        self.record.step(
            step.number,
            FORWARD,
            StepRunStatus.COMPLETED,
            detail={"lock_waits": slices, "lock_wait_ms": round((target.waits.seconds - waits[1]) * 1000)},
        )
        took = clock.ticks() - began
        words = f"done in {duration(took)}" + (f", {slices} wait{'s' * (slices != 1)} for locks" if slices else "")
        self.record.log("step-completed", words, step=name, seconds=took, kind=step.kind.kind)
        return True

    def _remember(self, step: PlannedStep, target: Target) -> None:
        """Record the schema as the step leaves it: without this it could not be told from somebody else's change."""
        target.remember(self.work.schema, StepRun(self, step, FORWARD).key(0))

    # -- backwards

    def _undo_steps(self) -> None:
        forward = self.record.step_runs(FORWARD)
        backward = self.record.step_runs(BACKWARD)
        for step in reversed(self.work.steps):
            if backward[step.number].status == StepRunStatus.COMPLETED:
                continue
            was = forward[step.number].status
            if was in (StepRunStatus.PENDING, StepRunStatus.SKIPPED) or not step.kind.effects:
                if was not in (StepRunStatus.PENDING, StepRunStatus.UNDONE):
                    self.record.step(step.number, FORWARD, StepRunStatus.UNDONE)
                if backward[step.number].status != StepRunStatus.SKIPPED:
                    self.record.step(step.number, BACKWARD, StepRunStatus.SKIPPED)
                continue
            self.control.boundary()
            if was == StepRunStatus.COMPLETED and not self._shown(step):
                self._not_there(step)
                continue
            self._undo_step(step, was)

    def _undo_step(self, step: PlannedStep, was: str) -> None:
        name = step.params.name
        self.record.step(step.number, BACKWARD, StepRunStatus.RUNNING)
        self.record.log("undo-started", "undo begins", step=name)
        began = clock.ticks()
        try:
            self._attempts(step, BACKWARD, self.target)
        except (PauseRequested, CancelRequested, Interrupted, MustWait):
            self.target.remember(self.work.schema, StepRun(self, step, BACKWARD).key(0))
            raise
        except (KeyboardInterrupt, FenceLost):
            raise
        except SegueError as error:
            self.record.step(step.number, BACKWARD, StepRunStatus.FAILED, error=_describe(error))
            raise
        self.target.remember(self.work.schema, StepRun(self, step, BACKWARD).key(0))
        journal.point("schema-remembered")
        if was != StepRunStatus.UNDONE:
            self.record.step(step.number, FORWARD, StepRunStatus.UNDONE)
        self.record.step(step.number, BACKWARD, StepRunStatus.COMPLETED)
        took = clock.ticks() - began
        self.record.log("undo-completed", f"undone in {duration(took)}", step=name, seconds=took, kind=step.kind.kind)

    # -- attempts

    def _attempts(self, step: PlannedStep, direction: str, target: Target) -> None:
        """Try a step as often as it may be tried. A lost connection is no failure of the step: look, and go on."""
        failures = lost = 0
        while True:
            run = StepRun(self, step, direction, target)
            try:
                if direction == FORWARD:
                    self._attempt(step, run)
                else:
                    step.kind.undo(run)
                return
            except FenceLost:
                raise
            except TargetUnreachable as error:
                lost += 1
                if lost > RECOVERIES:
                    raise
                self.record.log("connection-lost", error.message, step=step.params.name, level="warning")
                target.recover(RECOVERY_SECONDS)
                self.record.log("connection-back", "the target is back; looking what it shows", step=step.params.name)
            except StepRefused:
                raise
            except (StepFailed, Differences, LockNotGranted, TargetError) as error:
                failures += 1
                if failures > step.params.retries:
                    raise
                pause = step.params.backoff * 2 ** (failures - 1) * random.uniform(0.8, 1.2)  # noqa: S311  jitter
                self.record.log(
                    "retry",
                    f"attempt {failures} of {step.params.retries + 1} failed: {error.message}; "
                    f"next in {duration(pause)}",
                    step=step.params.name,
                    level="warning",
                )
                self._wait(pause)
                self.record.step(step.number, direction, StepRunStatus.RUNNING)

    def _attempt(self, step: PlannedStep, run: StepRun) -> None:
        name = step.params.name
        if step.params.approval and step.kind.kind != "approval":
            given = run.approval()
            if given is None:
                raise MustWait(
                    "approval",
                    f'step "{name}" waits for an approval',
                    hint=self._how_to_approve(name),
                    step=name,
                )
            self.record.log("approved", f"approved by {given.by}: {given.reason}", step=name)
        step.kind.check(run)
        step.kind.run(run)
        expectation = step.params.check_after
        if expectation is None:
            return
        began = clock.ticks()
        names, rows = run.target.query(expectation.query, run.patience.work, limit=wanted(expectation))
        answer = meets(expectation, rows)
        self.record.validation(
            answer.as_json(expectation.query, names, clock.ticks() - began),
            step=step.params.name,
            tolerance=expectation.tolerance,
            blocking=step.params.blocking,
        )
        if not answer.passed:
            raise Differences(
                f'step "{step.params.name}" ran, but its validation fails: {answer.said}',
                details=[" ".join(expectation.query.split())[:300]],
                hint="look at the data; run again to check again, or roll back",
            )

    def _wait(self, seconds: float) -> None:
        until = clock.ticks() + seconds
        while (left := until - clock.ticks()) > 0:
            self.control.boundary()
            clock.sleep(min(left, 0.2))


class _Progress:
    """Which steps of a run are ready, which run, which wait, and which have ended."""

    def __init__(self, steps: list[PlannedStep]) -> None:
        self._open = steps
        self._ended: set[str] = set()
        self._failed: set[str] = set()
        self.waiting: list[MustWait] = []

    def ready(self) -> list[PlannedStep] | None:
        """Return the steps that may begin, in the plan's order; None when there are none and none will come.

        Steps that a failed one keeps from running count too: they are `skipped`.
        """
        found = [step for step in self._open if all(name in self._ended for name in step.params.needs)]
        if not found:
            return None
        return [step for step in found if not self._missing(step)]

    def skipped(self) -> list[tuple[PlannedStep, list[str]]]:
        """Take the steps that cannot run any more, each with the failed steps that it needs."""
        found = []
        for step in list(self._open):
            if missing := self._missing(step):
                self.ended(step, failed=True)
                found.append((step, missing))
        return found

    def _missing(self, step: PlannedStep) -> list[str]:
        return [name for name in step.params.needs if name in self._failed]

    def begun(self, step: PlannedStep) -> None:
        self._open.remove(step)

    def ended(self, step: PlannedStep, *, failed: bool = False) -> None:
        if step in self._open:
            self._open.remove(step)
        self._ended.add(step.params.name)
        if failed:
            self._failed.add(step.params.name)

    def waits(self, wait: MustWait) -> None:
        self.waiting.append(wait)


def _nothing() -> None:
    """Do nothing."""


def _earliest(waiting: list[MustWait]) -> MustWait:
    """Return the wait of a whole run, of several of its steps: it goes on when the first of them can."""
    dues = [wait.due for wait in waiting if wait.due is not None]
    first = waiting[0]
    return MustWait(
        first.kind,
        first.message,
        due=min(dues, default=None),
        hint=first.hint,
        step=first.step,
        details=[wait.message for wait in waiting[1:]],
    )


def _describe(error: BaseException) -> dict[str, Any]:
    if isinstance(error, SegueError):
        return error.as_json()
    return {"code": "S070", "error": type(error).__name__, "message": str(error), "hint": "", "details": []}
