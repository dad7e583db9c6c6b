"""Keeps the store's record of an online schema change up to date: its phase, its shadows, how fast and how gently."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.engine import journal
from segue.engine.control import CancelRequested, Halted, MustWait, PauseRequested
from segue.errors import FenceLost, Interrupted, TargetUnreachable
from segue.model.lifecycles import ONLINE_CHANGE, OnlineChangePhase, ShadowSync
from segue.model.online import Alteration, doing, plain, weightiest
from segue.model.vocabulary import ChangeType, ImpactLevel, OnlineStrategy, ShadowPurpose
from segue.store.tables.online import OnlineChangeRow, ShadowTableRow
from segue.store.transitions import advance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.orm import Session

    from segue.engine.record import Record
    from segue.model.online import Chosen, Verified
    from segue.ports import Database, Pace
    from segue.store import Store

WRITE_SECONDS = 1.0
#: The rate that is kept is that of so many seconds.
RATE_SECONDS = 12.0

#: Where each phase begins, in percent of the whole; the next one's beginning is its end.
_BEGINS: Mapping[OnlineChangePhase, float] = {
    OnlineChangePhase.PENDING: 0.0,
    OnlineChangePhase.CREATING_SHADOW: 0.0,
    OnlineChangePhase.CAPTURING: 1.0,
    OnlineChangePhase.COPYING_DATA: 2.0,
    OnlineChangePhase.DRAINING: 60.0,
    OnlineChangePhase.VERIFYING: 75.0,
    OnlineChangePhase.SWAPPING: 98.0,
    OnlineChangePhase.REVERSIBLE: 100.0,
    OnlineChangePhase.COMPLETED: 100.0,
}
_ORDER = tuple(_BEGINS)
_OVER = (OnlineChangePhase.COMPLETED, OnlineChangePhase.CANCELLED, OnlineChangePhase.ROLLED_BACK)

#: Up to so much of the latency budget, or so many times the latency before, the application feels this much.
_SHARE_OF_BUDGET = ((0.5, ImpactLevel.MINIMAL), (0.8, ImpactLevel.LOW), (1.0, ImpactLevel.MEDIUM))
_TIMES_BEFORE = ((1.25, ImpactLevel.MINIMAL), (2.0, ImpactLevel.LOW), (5.0, ImpactLevel.MEDIUM))
#: Without a measured latency: up to so much of the time that data work may take, by the throttle's signals.
_DUTY = ((0.0, ImpactLevel.HIGH), (0.5, ImpactLevel.MEDIUM), (0.99, ImpactLevel.LOW))
#: For so many milliseconds at most the swap held everybody up.
_LOCK_MS = ((60.0, ImpactLevel.MINIMAL), (250.0, ImpactLevel.LOW), (1000.0, ImpactLevel.MEDIUM))
#: A latency that grew by less than this, in milliseconds, is no worse: it is the noise of a quick statement.
_NOISE_MS = 0.5
#: The level that is told is the one under which the application was for this share of the looks.
_FELT = 0.95


class Change:
    """See `segue.ports.online.ChangeRecord`. The target knows how far the change is; this follows it, a second behind.

    Opened again after a death, it goes on with the record that is there. `throttle` returns how the throttle stands,
    as JSON values.
    """

    def __init__(
        self,
        store: Store,
        record: Record,
        *,
        name: str,
        step: str,
        spec: Mapping[str, Any],
        table: str,
        alterations: Sequence[Alteration],
        retention_days: int,
        throttle: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._store = store
        self._record = record
        self._step = step
        self._throttle = throttle
        self._retention = retention_days
        self._alterations = alterations
        self._written = 0.0
        self._entered = clock.ticks()
        self._shadows: dict[int, str] = {}
        self._synced: dict[int, bool] = {}
        self._told: dict[int, float] = {}
        self._share = 0.0
        self._seen: deque[tuple[float, int]] = deque()
        self._compared: dict[int, Verified] = {}
        self._since: tuple[float, float] | None = None
        self._rows = 0
        self._total = 0
        self._native = False
        main = weightiest(alterations)

        def open_(session: Session, again: bool) -> tuple[str, str, float, dict[str, Any], str]:
            from sqlalchemy import select

            from segue.store.ids import new_id

            record.guard(session)
            row = session.scalars(select(OnlineChangeRow).where(OnlineChangeRow.change_name == name)).one_or_none()
            if row is None:
                row = OnlineChangeRow(
                    id=new_id(),
                    change_name=name,
                    change_type=main.kind,
                    table_name=plain(table),
                    column_name=main.column,
                    index_name=main.index,
                    change_spec=dict(spec),
                    # What is asked for; `chosen` says what it came to.
                    strategy=_strategy(spec.get("strategy")),
                    impact_level=ImpactLevel.MINIMAL,
                    started_at=clock.now(),
                    execution_id=record.execution,
                    step_name=step,
                )
                session.add(row)
                session.flush()
            self._rows, self._total = row.rows_copied, row.total_rows or 0
            return row.id, row.phase, row.progress_percent, dict(row.performance_metrics or {}), row.impact_level

        self._id, phase, self._percent, self._metrics, self._impact = record.written(open_)
        self._phase = ONLINE_CHANGE.word(phase)
        self._felt: dict[str, int] = dict(self._metrics.get("felt") or {})
        journal.point("change-opened")

    # -- what the workflow tells

    def chosen(self, chosen: Chosen) -> None:
        """Record the strategy, and a shadow for each member that has one."""
        self._native = bool(chosen.native)
        self._total = self._total or sum(member.rows for member in chosen.members)
        self._metrics.update(
            reasons=list(chosen.reasons),
            warnings=list(chosen.warnings),
            members=[
                {
                    "number": member.number,
                    "table": plain(member.table),
                    "shadow": plain(member.shadow),
                    "bytes": member.bytes,
                }
                for member in chosen.members
            ],
        )
        shadowed = [member for member in chosen.members if member.shadow and not chosen.native]
        keys = {column for member in chosen.members for column in member.key}
        main = weightiest(self._alterations)
        kind = main.kind
        if kind == ChangeType.MODIFY_COLUMN and any(
            one.kind == ChangeType.MODIFY_COLUMN and one.column in keys for one in self._alterations
        ):
            kind = ChangeType.CHANGE_KEY

        def write(session: Session, again: bool) -> None:
            from sqlalchemy import select

            from segue.store.ids import new_id

            row = self._row(session)
            row.strategy = _strategy(chosen.strategy)
            row.change_type = kind
            row.total_rows = self._total or None
            row.performance_metrics = dict(self._metrics)
            for member in shadowed:
                shadow = session.scalars(
                    select(ShadowTableRow).where(
                        ShadowTableRow.original_table == plain(member.table),
                        ShadowTableRow.shadow_table == plain(member.shadow),
                    )
                ).one_or_none()
                if shadow is None:
                    shadow = ShadowTableRow(
                        id=new_id(),
                        original_table=plain(member.table),
                        shadow_table=plain(member.shadow),
                        migration_id=self._record.execution,
                        purpose=ShadowPurpose.SCHEMA_CHANGE,
                        retention_days=self._retention,
                        change_id=self._id,
                        is_active=self._phase not in _OVER,
                        row_count_original=member.rows,
                    )
                    session.add(shadow)
                    session.flush()
                self._shadows[member.number] = shadow.id
                self._synced[member.number] = shadow.sync_status == ShadowSync.SYNCED

        self._record.written(write)
        journal.point("change-chosen")

    def phase(self, phase: OnlineChangePhase) -> None:
        """Record what is done now; phases that this record has missed are gone through one by one."""
        if phase == self._phase:
            return
        now = clock.ticks()
        # Several processes may have worked on it: the seconds of all of them.
        spent = dict(self._metrics.get("phase_seconds") or {})
        if self._phase in _ORDER[:-2]:
            spent[self._phase] = round(spent.get(self._phase, 0.0) + now - self._entered, 2)
        self._metrics["phase_seconds"] = spent
        self._entered = now
        self._since = None
        self._seen.clear()
        self._share = 0.0
        if phase in (OnlineChangePhase.COPYING_DATA, OnlineChangePhase.CAPTURING):
            self._compared.clear()
        self._percent = max(self._percent, _BEGINS.get(phase, 0.0))
        if phase in (OnlineChangePhase.REVERSIBLE, *_OVER, OnlineChangePhase.FAILED):
            for name in ("waiting", "blockers", "conflicts", "wal"):
                self._metrics.pop(name, None)
        if phase in (OnlineChangePhase.REVERSIBLE, OnlineChangePhase.COMPLETED) and not self._native:
            self._metrics.setdefault("swapped_at", clock.now().isoformat())

        def write(session: Session, again: bool) -> None:
            row = self._row(session)
            if row.phase == phase:
                return
            for step in _path(ONLINE_CHANGE.word(row.phase), phase):
                columns = self._columns()
                # It was said of the phase that is over.
                columns["performance_metrics"].pop("slowed", None)
                columns["estimated_completion"] = None
                if step in _OVER:
                    columns["completed_at"] = clock.now()
                elif step is not OnlineChangePhase.FAILED:
                    columns["completed_at"] = None
                advance(session, row, step, actor=self._record.actor, detail={"change": row.change_name}, **columns)
            for shadow in self._shadow_rows(session):
                if phase in _OVER:
                    # Nothing is kept beside the original any more.
                    shadow.is_active = False
                if phase is OnlineChangePhase.SWAPPING:
                    self._compare(shadow)
                elif phase is OnlineChangePhase.COPYING_DATA and shadow.sync_status != ShadowSync.SYNCING:
                    advance(session, shadow, ShadowSync.SYNCING, actor=self._record.actor)
            if phase is OnlineChangePhase.COPYING_DATA:
                self._synced = dict.fromkeys(self._synced, False)

        self._record.written(write)
        self._phase = phase
        self._metrics.pop("slowed", None)
        self._written = clock.ticks()
        journal.point(f"change-{phase}")
        words = "changing it in place" if self._native and phase is OnlineChangePhase.SWAPPING else doing(phase)
        self._record.tell("phase", words, step=self._step, phase=str(phase), percent=self._percent)

    def progress(self, rows: int, total: int, pace: Pace) -> None:
        """Record how far the copy is."""
        self._rows = rows
        self._total = max(total, rows)
        # Where a table grew, or was never analysed, the end is not known before it is there.
        self._share = min(0.99, rows / total) if total and rows < total else 0.99 if rows else 0.0
        self._move(rows)

    def verified(self, member: int, verified: Verified) -> None:
        """Record what a comparison has come to so far."""
        self._compared[member] = verified
        rows = sum(one.rows for one in self._compared.values())
        self._share = min(0.99, rows / self._total) if self._total else 0.0
        self._metrics["verified"] = {
            str(number): {
                "ranges": one.ranges,
                "rows": one.rows,
                "repaired": one.differing,
                "digest_old": one.digest_old,
                "digest_new": one.digest_new,
                "methods": dict(one.methods),
            }
            for number, one in self._compared.items()
        }
        self._move(rows)

    def synced(self, member: int, *, diverged: bool = False) -> None:
        """Record that a shadow was brought up to date just now, or that it differs."""
        if member not in self._shadows:
            return
        to = ShadowSync.DIVERGED if diverged else ShadowSync.SYNCED
        now = clock.ticks()
        if self._synced.get(member) and not diverged and now - self._told.get(member, 0.0) < WRITE_SECONDS:
            return
        self._told[member] = now

        def write(session: Session, again: bool) -> None:
            self._record.guard(session)
            shadow = session.get(ShadowTableRow, self._shadows[member])
            if shadow is None:
                return
            if shadow.sync_status == ShadowSync.DIVERGED and to is ShadowSync.SYNCED:
                advance(session, shadow, ShadowSync.SYNCING, actor=self._record.actor)
            if shadow.sync_status != to:
                advance(session, shadow, to, actor=self._record.actor)
            if not diverged:
                shadow.last_sync_at = clock.now()

        self._record.written(write)
        self._synced[member] = not diverged
        if self._due():
            self._flush()

    def measure(self, **metrics: Any) -> None:
        """Keep measurements; None takes one away."""
        for name, value in metrics.items():
            if value is None:
                self._metrics.pop(name, None)
            else:
                self._metrics[name] = value
        if any(name in ("swap_lock_ms", "swap_back_lock_ms") for name in metrics) or self._due():
            self._flush()

    def rows(self, members: Mapping[int, int], shadows: Sequence[int] = ()) -> None:
        """Record row counts by member, and of the shadows in the members' order."""
        counts = dict(zip(sorted(members), shadows, strict=False))

        def write(session: Session, again: bool) -> None:
            self._record.guard(session)
            for number, rows in members.items():
                shadow = session.get(ShadowTableRow, self._shadows[number]) if number in self._shadows else None
                if shadow is not None:
                    shadow.row_count_original = rows
                    shadow.row_count_shadow = counts.get(number, shadow.row_count_shadow)

        self._record.written(write)

    def stop(self, error: BaseException) -> None:
        """Record that it stopped: cancelled or failed; a pause leaves the phase as it is."""
        if isinstance(error, FenceLost):
            return  # the change is another process's by now
        if isinstance(error, TargetUnreachable | PauseRequested | Interrupted | KeyboardInterrupt | MustWait | Halted):
            self._since = None
            self._flush()
            return
        if self._phase in (OnlineChangePhase.REVERSIBLE, *_OVER):
            self._flush()
            return
        if isinstance(error, CancelRequested):
            self.phase(OnlineChangePhase.CANCELLED)
        else:
            self.phase(OnlineChangePhase.FAILED)

    # -- parts

    def _row(self, session: Session) -> OnlineChangeRow:
        self._record.guard(session)
        return session.get_one(OnlineChangeRow, self._id)

    def _shadow_rows(self, session: Session) -> list[ShadowTableRow]:
        found = [session.get(ShadowTableRow, identity) for identity in self._shadows.values()]
        return [row for row in found if row is not None]

    def _compare(self, shadow: ShadowTableRow) -> None:
        """Write what the comparison of all rows, which is over, came to."""
        for member, verified in self._compared.items():
            if self._shadows.get(member) == shadow.id:
                shadow.checksum_original, shadow.checksum_shadow = verified.digest_old, verified.digest_new
                shadow.row_count_original, shadow.row_count_shadow = verified.rows, verified.rows_new

    def _due(self) -> bool:
        return clock.ticks() - self._written >= WRITE_SECONDS

    def _move(self, rows: int) -> None:
        """Go on within the phase, and write that when it is time to."""
        now = clock.ticks()
        self._seen.append((now, rows))
        while now - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()
        begin = _BEGINS.get(self._phase)
        if begin is not None and self._phase in _ORDER[:-2]:
            end = _BEGINS[_ORDER[_ORDER.index(self._phase) + 1]]
            self._percent = max(self._percent, begin + self._share * (end - begin))
        self._since = self._since or (now, self._percent)
        if self._due():
            self._flush()

    @property
    def _rate(self) -> float | None:
        """Return the rows per second of the last while; None where nothing is known."""
        if len(self._seen) < 2:
            return None
        (before, had), (now, has) = self._seen[0], self._seen[-1]
        return (has - had) / (now - before) if now - before > 0.2 and has >= had else None

    def _left(self) -> float | None:
        """Return how many seconds are left by the pace of the present phase; None where nothing is known of it."""
        if self._since is None or self._phase not in (OnlineChangePhase.COPYING_DATA, OnlineChangePhase.VERIFYING):
            return None
        took, moved = clock.ticks() - self._since[0], self._percent - self._since[1]
        return (100.0 - self._percent) * took / moved if moved > 0.1 and took >= WRITE_SECONDS else None

    def _columns(self) -> dict[str, Any]:
        throttle = dict(self._throttle())
        self._feel(throttle)
        left, rate = self._left(), self._rate
        self._metrics["rows_per_second"] = round(rate, 1) if rate is not None else None
        self._metrics["felt"] = dict(self._felt)
        data_work = self._phase in (OnlineChangePhase.COPYING_DATA, OnlineChangePhase.VERIFYING)
        if data_work and throttle.get("reason") and throttle.get("duty", 1.0) < 1:
            self._metrics["slowed"] = throttle["reason"]
        else:
            self._metrics.pop("slowed", None)
        latency = throttle.get("latency") or None
        if latency:
            # What it was before anything was copied; later it would be measured against itself.
            if self._phase in _ORDER[:3] and ("p95" in latency or "told" in latency):
                self._metrics.setdefault("latency_before", latency)
            self._metrics["latency"] = latency
            worst = dict(self._metrics.get("latency_by_phase") or {})
            told = latency.get("p95", latency.get("told"))
            if told is not None:
                worst[self._phase] = max(told, worst.get(self._phase, 0.0))
            self._metrics["latency_by_phase"] = worst
        return {
            "progress_percent": round(self._percent, 2),
            "rows_copied": self._rows,
            "total_rows": self._total or None,
            "impact_level": self._impact,
            "throttling": {
                name: throttle[name] for name in ("settings", "state", "duty", "workers", "reason") if name in throttle
            },
            "estimated_completion": clock.now() + timedelta(seconds=left) if left is not None else None,
            "performance_metrics": dict(self._metrics),
        }

    def _flush(self) -> None:
        columns = self._columns()
        self._written = clock.ticks()

        def write(session: Session, again: bool) -> None:
            row = self._row(session)
            for name, value in columns.items():
                setattr(row, name, value)

        self._record.written(write)
        journal.point("change-written")
        left = self._left()
        words = doing(self._phase)
        if self._phase in (OnlineChangePhase.COPYING_DATA, OnlineChangePhase.VERIFYING) and self._seen:
            words += f", {self._seen[-1][1]:,} of about {self._total:,} rows"
        self._record.tell(
            "progress",
            words,
            step=self._step,
            done=self._rows,
            total=self._total or None,
            percent=self._percent,
            rows_per_second=self._rate,
            seconds_left=left,
            phase=str(self._phase),
        )

    def _feel(self, throttle: Mapping[str, Any]) -> None:
        """Judge what the application feels now, and from all looks so far what it feels on the whole."""
        level = felt(throttle, self._metrics.get("latency_before"))
        self._felt[level] = self._felt.get(level, 0) + 1
        total, seen = sum(self._felt.values()), 0
        whole = ImpactLevel.HIGH
        for one in ImpactLevel:
            seen += self._felt.get(one, 0)
            if seen >= _FELT * total:
                whole = one
                break
        locks = ("swap_lock_ms", "swap_back_lock_ms", "swap_stall_ms")
        lock = max((self._metrics.get(name) or 0.0 for name in locks), default=0.0)
        levels = list(ImpactLevel)
        self._impact = levels[max(levels.index(whole), levels.index(_level(lock, _LOCK_MS)))]


def altered(spec: Mapping[str, Any], database: Database) -> list[Alteration]:
    """Return what a step of this kind does to its tables, part by part, as the plan says it."""
    found = []
    for table in spec.get("tables") or [spec]:
        for commands in table.get("alter") or ():
            found += database.alterations(f"ALTER TABLE {table['table']}\n{commands}")
        if table.get("partition_by"):
            found.append(Alteration(ChangeType.PARTITION))
        if table.get("columns"):
            found.append(Alteration(ChangeType.REORDER_COLUMNS))
    return found


def felt(throttle: Mapping[str, Any], before: Mapping[str, Any] | None) -> ImpactLevel:
    """Return what an application feels, by how its latency is now, or where that is not measured, by the throttle.

    The latency is compared with its budget where there is one, else with what it was `before`.
    """
    latency = throttle.get("latency") or {}
    if latency.get("budget"):
        kind, _, limit = str(latency["budget"]).partition("=")
        value = latency.get(kind, latency.get("told"))
        if value is not None and limit.endswith("ms"):
            return _level(value / float(limit.removesuffix("ms")), _SHARE_OF_BUDGET)
    kind = "p95" if "p95" in latency else "told"
    if before and latency.get(kind) is not None and before.get(kind):
        if latency[kind] - before[kind] < _NOISE_MS:
            return ImpactLevel.MINIMAL
        return _level(latency[kind] / before[kind], _TIMES_BEFORE)
    return _level(throttle.get("duty", 1.0), _DUTY, ImpactLevel.MINIMAL)


def _level(
    value: float, levels: Sequence[tuple[float, ImpactLevel]], beyond: ImpactLevel = ImpactLevel.HIGH
) -> ImpactLevel:
    return next((level for most, level in levels if value <= most), beyond)


def _path(here: OnlineChangePhase, to: OnlineChangePhase) -> list[OnlineChangePhase]:
    """Return the phases from one to another: the record of a process that died may be some behind the target."""
    if ONLINE_CHANGE.allows(here, to) or here not in _ORDER or to not in _ORDER:
        return [to]
    first, last = _ORDER.index(here), _ORDER.index(to)
    return list(_ORDER[first + 1 : last + 1]) if first < last else [to]


def _strategy(word: Any) -> str:
    """Return a strategy that the record has; what is still to be chosen is a shadow table until it is."""
    return str(word) if word in list(OnlineStrategy) else OnlineStrategy.SHADOW_TABLE
