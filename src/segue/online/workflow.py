"""Drives an online schema change from its first look at the tables to the swap, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.engine import journal
from segue.engine.control import CancelRequested, PauseRequested
from segue.errors import LockNotGranted, SegueError, SlotLost, StepFailed, WouldLose
from segue.model.lifecycles import OnlineChangePhase as Phase
from segue.model.online import readable
from segue.ports import FORWARD, Observed, Pace, Patience, Shared
from segue.rows.chunks import Remainder
from segue.rows.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from segue.model.online import ChangeSpec, Chosen, Conflict, Drained, Member, Verified
    from segue.ports import Batch, StepRun
    from segue.ports.online import ChangeRecord, OnlineChange

#: The part of a change's history that says "all of it".
WHOLE = -2
#: So many keys at most are drained under the swap's locks; a swap that finds more gives up, and drains before it.
FEW_KEYS = 300
#: The longest the swap's locks should be held, in seconds.
SWAP_BUDGET = 1.0
#: How long a try for the swap's locks goes on before what has come meanwhile is drained.
TRY_SECONDS = 5.0
#: How often what is touched is brought up to date while the swap waits for somebody.
IDLE_SECONDS = 1.0
#: Keys in a drain while the change still catches up.
DRAIN_KEYS = 2_000
#: How many of its waits a swap tells about.
TOLD_EVERY = 30.0
#: How long a chunk takes at most under a budget on the application's latency: whatever commits meanwhile waits until
#: all that the chunk has written to the log before it is on the disk.
BRIEF_SECONDS = 0.02
#: How often a source may be emptied before it is given up.
RESTARTS = 20
#: How often what was followed may be lost: what takes it away, a limit or a long transaction, does so again.
LOSSES = 3
#: How often it is written down what the server keeps back of its log.
RETAINED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Manner:
    """How a change is to go: sizes, patience, and when the swap may be."""

    seconds: float = 0.3
    largest: int = 50_000
    postponed: bool = False
    reversible: bool = True
    retention_days: int = 7
    cancel_blockers: tuple[str, ...] = ()
    lossy: bool = False
    words: Mapping[str, Any] = field(default_factory=dict)


class Workflow:
    """One change, driven in one direction by one process. What is done is in the target; this asks it, and goes on."""

    def __init__(self, run: StepRun, spec: ChangeSpec, manner: Manner) -> None:
        self._run = run
        self._spec = spec
        self._manner = manner
        self._told = self._weighed = 0.0
        self._lost = 0
        #: Each with its name, and when it began and ended, in seconds since the epoch.
        self._phases: list[list[Any]] = []
        self._change: OnlineChange
        self._record: ChangeRecord
        self._chosen: Chosen

    def forward(self) -> None:
        """Change the tables; when it returns, the new ones are in place."""
        run = self._run
        if run.target.observe(run.key(WHOLE)) is Observed.DONE:
            return
        self._change = run.target.online(run.key(0), self._spec)
        try:
            self._open()
            self._go()
        except CancelRequested as cancelled:
            if self._change.phase not in (Phase.REVERSIBLE, Phase.COMPLETED):
                self._note("cancelled: what was made for the change is removed")
                self._change.discard(run.patience, self._note)
            self._record.stop(cancelled)
            raise
        except BaseException as error:
            if hasattr(self, "_record"):
                self._record.stop(error)
            raise
        finally:
            self._change.close()

    def backward(self) -> None:
        """Take the change back, with everything that was written since; whatever part of it was done."""
        run = self._run
        if not run.target.parts(run.key(0).execution, run.key(0).step, FORWARD) and not run.target.changing(run.key(0)):
            return
        self._change = run.target.online(run.key(0, FORWARD), self._spec)
        try:
            self._open()
            if self._change.phase is Phase.COMPLETED:
                raise StepFailed(
                    "the way back has ended: the old tables were dropped",
                    hint="change the tables again, the other way round, or restore a backup",
                )
            if self._chosen.native:
                self._native_back()
            elif self._change.phase in (Phase.REVERSIBLE, Phase.ROLLED_BACK):
                # One that was killed right after it had swapped back has its foreign keys still to be validated.
                if self._change.phase is Phase.REVERSIBLE:
                    self._swap_back()
                self._change.complete(run.patience, self._note, run.boundary)
            self._change.discard(run.patience, self._note)
            self._record.phase(Phase.ROLLED_BACK)
            run.target.mark(run.key(WHOLE), {})
        except BaseException as error:
            if hasattr(self, "_record"):
                self._record.stop(error)
            raise
        finally:
            self._change.close()

    # -- forward

    def _open(self) -> None:
        run = self._run
        try:
            self._chosen = self._change.prepare(self._note)
        except StepFailed:
            if self._change.phase is Phase.PENDING:
                run.keep(refused=True)  # there is nothing of it that a rollback would take back
            raise
        words = self._manner.words
        self._record = run.changing(
            words,
            table=self._chosen.members[0].table if self._chosen.members else str(words.get("table", "")),
            retention_days=self._manner.retention_days,
        )
        self._record.chosen(self._chosen)

    def _go(self) -> None:
        run, change = self._run, self._change
        self._note(f"{self._chosen.strategy}: " + "; ".join(self._chosen.reasons))
        for warning in self._chosen.warnings:
            self._note(warning)
        if self._chosen.native:
            self._native()
            return
        acts: dict[Phase, Callable[[], None]] = {
            Phase.CREATING_SHADOW: lambda: change.create(run.patience, self._note),
            Phase.CAPTURING: lambda: change.capture(run.patience, self._note),
            Phase.COPYING_DATA: self._copy,
            Phase.DRAINING: self._settle,
            Phase.VERIFYING: self._verify,
            Phase.SWAPPING: self._swap,
        }
        if change.phase in (Phase.CANCELLED, Phase.ROLLED_BACK):
            change.discard(run.patience, self._note)
            raise StepFailed(
                "this change was given up, and what it had made is removed",
                hint="`segue rollback` closes this execution; begin a new one",
            )
        while (phase := change.phase) in acts:
            run.boundary()
            with self._timed(phase):
                try:
                    acts[phase]()
                except SlotLost as lost:
                    self._lost += 1
                    if self._lost >= LOSSES:
                        raise StepFailed(
                            f"{lost.message}; this has happened {self._lost} times, so the copy is not begun again",
                            hint=f"{lost.hint}; or take the change back, and use --strategy shadow-table",
                        ) from lost
                    self._note(f"{lost.message}; the copy begins anew")
                    change.restart(run.patience, self._note, lost=True)
            journal.point(f"online-{phase.value}-done")
        with self._timed(Phase.REVERSIBLE, tell=False):
            change.complete(run.patience, self._note, run.boundary)
        if not self._manner.reversible:
            # Before it is said to be done: who died in between would leave the old tables behind.
            change.retire(run.patience, self._note)
        run.target.mark(run.key(WHOLE), {"strategy": self._chosen.strategy})
        self._record.phase(Phase.REVERSIBLE if self._manner.reversible else Phase.COMPLETED)

    @contextmanager
    def _timed(self, phase: Phase, *, tell: bool = True) -> Iterator[None]:
        """Record a phase, and when it began and ended."""
        if tell:
            self._record.phase(phase)
        began = clock.now()
        try:
            yield
        except BaseException:
            # What stopped it is to be told, not that it could not be written down how long it took.
            with suppress(SegueError):
                self._spent(phase, began)
            raise
        self._spent(phase, began)

    def _spent(self, phase: Phase, began: datetime) -> None:
        self._phases.append([phase.value, began.timestamp(), clock.now().timestamp()])
        self._run.keep(phases=self._phases)

    def _native(self) -> None:
        """Run PostgreSQL's own online forms, one effect each."""
        run = self._run
        self._record.phase(Phase.SWAPPING)
        for part, text in enumerate(self._chosen.native):
            try:
                run.boundary()
                run.do(part, run.database.statements(text))
            except (StepFailed, CancelRequested, PauseRequested):
                self._relent(part)
                raise
        run.target.mark(run.key(WHOLE), {"strategy": self._chosen.strategy})
        self._record.phase(Phase.COMPLETED)

    def _relent(self, part: int) -> None:
        """Take back what was done of a command that stops half-way: its rule would be the application's already.

        A later attempt begins the command anew. An index that is built stays: only a rollback drops it.
        """
        run, chosen = self._run, self._chosen
        key = run.key(0, FORWARD)
        done = run.target.parts(key.execution, key.step, FORWARD)
        group = chosen.native_groups[part] if chosen.native_groups else part
        keys, statements = [], []
        for number in range(part, -1, -1):
            if not chosen.native_groups or chosen.native_groups[number] != group:
                break
            undo = [one for text in chosen.native_undo[number] for one in run.database.statements(text)]
            if done.get(number) is Observed.DONE and all(one.transactional for one in undo):
                keys.append(run.key(number, FORWARD))
                statements += undo
        if not statements:
            return
        try:
            run.target.take_back(keys, statements, run.patience, run.note)
        except SegueError as error:
            self._note(f"a rule that is not finished stays in place, and `segue rollback` removes it: {error.message}")
        else:
            self._note("what was put in place of this command is taken back: the application meets no new rule")

    def _copy(self) -> None:
        change, run = self._change, self._run
        total = sum(member.rows for member in self._chosen.members)
        before = 0
        for member in self._chosen.members:
            work = change.copying(member.number, run.patience)
            counted = _Counted(lambda rows: self._record.progress(rows, total, run.pace()), before)
            walk = Walk(
                Shared(work, self._chunk_seconds(), self._manner.largest),
                Remainder.of(work.progress(loose=True)),
                size=min(2000, self._manner.largest),
                workers=self._spec.sessions(watched=run.pace().watched),
                patience=run.patience.work,
                boundary=self._boundary,
                pace=run.pace,
                slots=lambda wanted: wanted,
                note=counted.note,
            )
            counted.known(work.board.known())
            walk.go()
            before = counted.rows
            self._note(f"{member.table}: {before:,} rows copied")
        change.copied()

    def _chunk_seconds(self) -> float:
        """Return how long a chunk should take."""
        tuned = self._run.tuned().get("chunk_seconds")
        if tuned:
            return float(tuned)
        return min(self._manner.seconds, BRIEF_SECONDS) if self._run.pace().watched else self._manner.seconds

    def _settle(self) -> None:
        """Bring the shadows up to date, give them their indexes, and begin the copy anew where a source was emptied."""
        run = self._run
        self._change.settle(run.patience, self._note, self._boundary, run.pace, self._rest)

    def _verify(self) -> None:
        run, change = self._run, self._change
        for member in self._chosen.members:
            verified = change.verify(member.number, run.pace, partial(self._seen, member), self._boundary)
            if change.phase is not Phase.VERIFYING:
                return  # the source was emptied: the copy begins anew
            self._seen(member, verified)
            self._note(
                f"{member.table}: {verified.rows:,} rows compared with the new table, "
                f"{verified.differing:,} of them had to be repaired"
            )
        lines = change.parity()
        if lines:
            raise StepFailed(
                "the new table is not what the old one is, beside what was asked for",
                details=lines,
                hint="nothing was swapped; make good what is named, or take the change back with `segue rollback`",
            )
        for line in change.slower():
            self._note(f"could become slower: {line}")
        change.verified()

    def _seen(self, member: Member, verified: Verified) -> None:
        self._record.verified(member.number, verified)

    def _swap(self) -> None:
        """Catch up, wait for whoever has to decide, and swap as soon as the locks are to be had."""
        run, change = self._run, self._change
        deadline = clock.ticks() + run.patience.locks
        asked = False
        while True:
            self._boundary()
            if self._catch_up():
                return  # emptied: the copy begins anew
            count, some = change.conflicts(5)
            self._record.measure(conflicts=count or None)
            if count:
                self._record.measure(waiting="the swap waits until every row fits")
                self._tell(
                    f"the swap waits: {count:,} rows do not fit the new definition (`segue change conflicts` lists "
                    f"them and offers repairs): {_show(some)}"
                )
                self._idle()
                deadline = clock.ticks() + run.patience.locks
                continue
            if run.tuned().get("cutover", "postponed" if self._manner.postponed else "now") != "now":
                self._record.measure(waiting="the swap waits for `segue change cutover`", blockers=None)
                self._tell("the swap waits for `segue change cutover`; the new table is kept current")
                self._idle()
                deadline = clock.ticks() + run.patience.locks
                continue
            if not asked:
                seen = change.rehearse(3)
                words = f"the swap's locks were to be had in {seen.granted} of {seen.probes} tries"
                self._note(words + "".join(f"; in the way: {line}" for line in seen.blockers[:3]))
                asked = True
                self._record.measure(rehearsed=seen.granted, probes=seen.probes, rehearsed_ms=seen.milliseconds)
            left = deadline - clock.ticks()
            try:
                swapped = change.swap(
                    Patience(locks=max(0.1, min(TRY_SECONDS, left)), work=run.patience.work),
                    SWAP_BUDGET,
                    self._note,
                    most=FEW_KEYS,
                    cancel=tuple(run.tuned().get("cancel_blockers") or self._manner.cancel_blockers),
                )
            except LockNotGranted as refused:
                self._record.measure(
                    waiting="the swap waits for its locks",
                    blockers=refused.details[:5] or None,
                    swap_stall_ms=round(run.target.waits.longest * 1000, 2),
                )
                if left <= TRY_SECONDS:
                    raise
                continue
            break
        self._record.measure(
            swap_lock_ms=round(swapped.milliseconds, 2),
            swap_look_ms=round(swapped.looked, 2),
            swap_tries=swapped.tries,
            swap_keys=swapped.keys,
        )
        run.keep(swap_lock_ms=round(swapped.milliseconds, 2))
        self._note(
            f"swapped: locks held for {swapped.milliseconds:.0f} ms, {swapped.keys} keys brought up to date under them"
        )

    # -- backward

    def _native_back(self) -> None:
        """Take back what was done of the server's own forms, last first: a step that was killed has done some of it."""
        run, chosen = self._run, self._chosen
        key = run.key(0, FORWARD)
        done = run.target.parts(key.execution, key.step, FORWARD)
        lost = [words for part, words in enumerate(chosen.native_lost) if words and part in done]
        if lost:
            raise StepFailed(
                "what was done in place cannot be taken back",
                details=lost,
                hint="nothing was changed; bring back what is missing from a backup, or change the table again",
            )
        for part, text in enumerate(chosen.native):
            if done.get(part) is Observed.CANNOT_TELL:
                run.settle(part, run.database.statements(text))
        done = run.target.parts(key.execution, key.step, FORWARD)
        undoes = [(part, text) for part, texts in enumerate(chosen.native_undo) for text in reversed(texts)]
        # Each has its number, whatever was done: a way back that was killed must find what it has done.
        for number, (part, text) in reversed([*enumerate(undoes)]):
            if done.get(part) is Observed.DONE:
                run.boundary()
                run.do(number, run.database.statements(text))

    def _swap_back(self) -> None:
        run, change = self._run, self._change
        deadline = clock.ticks() + run.patience.locks
        while True:
            self._boundary()
            lost = change.losses()
            if lost and not self._manner.lossy:
                raise WouldLose(
                    f"taking the change back would lose {len(lost):,} rows that the old table cannot hold",
                    details=[_line(conflict) for conflict in lost[:20]],
                    hint="change these rows so that they fit, then `segue rollback` again; nothing was changed",
                )
            try:
                swapped = change.swap_back(
                    Patience(locks=max(0.1, min(TRY_SECONDS, deadline - clock.ticks())), work=run.patience.work),
                    SWAP_BUDGET,
                    self._note,
                    most=FEW_KEYS,
                    lossy=self._manner.lossy,
                )
            except LockNotGranted:
                if clock.ticks() > deadline:
                    raise
                continue
            break
        self._record.measure(swap_back_lock_ms=round(swapped.milliseconds, 2))
        self._note(f"swapped back: locks held for {swapped.milliseconds:.0f} ms")

    # -- both

    def _catch_up(self) -> bool:
        """Drain until few keys are left; return whether a source was emptied, and the copy has to begin anew."""
        for member in self._chosen.members:
            while True:
                self._boundary()
                began = clock.ticks()
                drained = self._change.drain(member.number, None, compare=True)
                if drained.emptied:
                    self._change.restart(self._run.patience, self._note)
                    return True
                self._check(member, drained)
                if drained.keys <= FEW_KEYS // 3:
                    break
                self._rest(clock.ticks() - began)
            self._record.synced(member.number)
        return False

    def _check(self, member: Member, drained: Drained) -> None:
        if drained.differing:
            self._record.synced(member.number, diverged=True)
            raise StepFailed(
                f"{member.table}: {drained.differing:,} rows differ from the new table's right after they were copied",
                hint="is something else writing to the new table? Nothing was swapped; look at it, then roll back",
            )

    def _boundary(self) -> None:
        """Stop here when somebody asks for it, or when somebody has changed the tables meanwhile."""
        self._run.boundary()
        self._change.watch()
        now = clock.ticks()
        if now - self._weighed >= RETAINED_SECONDS:
            self._weighed = now
            if (retained := self._change.retained()) is not None:
                self._record.measure(wal=asdict(retained))

    def _rest(self, worked: float) -> None:
        """Leave the application the share of the time that the throttle says."""
        pace: Pace = self._run.pace()
        while pace.duty <= 0:
            self._tell(f"waiting: {pace.reason}")
            self._boundary()
            clock.sleep(0.2)
            pace = self._run.pace()
        if pace.duty < 1:
            clock.sleep(min(5.0, worked * (1 / pace.duty - 1)))

    def _idle(self) -> None:
        until = clock.ticks() + IDLE_SECONDS
        while clock.ticks() < until:
            self._boundary()
            clock.sleep(0.2)

    def _note(self, words: str) -> None:
        self._run.note(readable(words))

    def _tell(self, words: str) -> None:
        """Say why it waits, now and then."""
        now = clock.ticks()
        if not self._told or now - self._told > TOLD_EVERY:
            self._told = now
            self._note(words)


class _Counted:
    """Counts the rows of a copy as its batches come in."""

    def __init__(self, tell: Callable[[int], None], before: int) -> None:
        self._tell = tell
        self._before = before
        self._rows: dict[int, int] = {}

    @property
    def rows(self) -> int:
        return sum(self._rows.values())

    def known(self, batches: Sequence[Batch]) -> None:
        self._rows.update((batch.number, batch.rows) for batch in batches)

    def note(self, batches: Sequence[Batch]) -> None:
        self.known(batches)
        self._tell(self._before + self.rows)


def _show(conflicts: Sequence[Conflict]) -> str:
    return "; ".join(_line(conflict) for conflict in conflicts[:3])


def _line(conflict: Conflict) -> str:
    key = ", ".join(f"{name} = {value}" for name, value in conflict.key.items())
    return f"{readable(conflict.table)} ({key}): {conflict.message}"
