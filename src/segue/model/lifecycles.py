"""The life of every record: the words of each status or phase, and which may follow which.

The store's CHECK constraints are generated from the words, and `segue.store.transitions.advance` refuses whatever
these tables do not allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Generic, TypeVar

from segue.errors import InternalError


class LifecycleError(InternalError):
    """Somebody asked for a status that may not follow the present one."""

    code = "S071"


S = TypeVar("S", bound=StrEnum)


@dataclass(frozen=True)
class Lifecycle(Generic[S]):
    """One record's life: its words, where it may begin, and which word may follow which; `noun` is for people."""

    noun: str
    words: type[S]
    initial: frozenset[S]
    after: Mapping[S, frozenset[S]]

    def word(self, text: str) -> S:
        """Return the word for a stored text; raises LifecycleError for any other text."""
        try:
            return self.words(text)
        except ValueError:
            raise LifecycleError(f'"{text}" is not a status of the {self.noun}') from None

    def allows(self, here: str, there: str) -> bool:
        """Return whether `there` may follow `here`."""
        return self.word(there) in self.after[self.word(here)]

    def check(self, here: str, there: str) -> None:
        """Raise LifecycleError unless `there` may follow `here`."""
        if not self.allows(here, there):
            allowed = ", ".join(sorted(self.after[self.word(here)])) or "nothing"
            raise LifecycleError(
                f'the {self.noun} cannot go from "{here}" to "{there}"', hint=f'after "{here}" may come: {allowed}'
            )

    def terminal(self, here: str) -> bool:
        """Return whether nothing may follow `here`."""
        return not self.after[self.word(here)]


def _lifecycle(noun: str, words: type[S], initial: S, *others: S, after: Mapping[S, tuple[S, ...]]) -> Lifecycle[S]:
    """Return a lifecycle; a word that `after` leaves out is an end."""
    table = {word: frozenset(after.get(word, ())) for word in words}
    return Lifecycle(noun, words, frozenset((initial, *others)), MappingProxyType(table))


class PlanStatus(StrEnum):
    """Where a plan stands over all environments."""

    DRAFT = "draft"
    APPROVED = "approved"
    EXECUTING = "executing"
    COMPLETED = "completed"
    FAILED = "failed"
    ROLLED_BACK = "rolled-back"


PLAN = _lifecycle(
    "plan",
    PlanStatus,
    PlanStatus.DRAFT,
    after={
        PlanStatus.DRAFT: (PlanStatus.APPROVED, PlanStatus.EXECUTING),
        PlanStatus.APPROVED: (PlanStatus.EXECUTING, PlanStatus.DRAFT),
        PlanStatus.EXECUTING: (PlanStatus.COMPLETED, PlanStatus.FAILED, PlanStatus.ROLLED_BACK),
        PlanStatus.COMPLETED: (PlanStatus.EXECUTING, PlanStatus.ROLLED_BACK),
        PlanStatus.FAILED: (PlanStatus.EXECUTING, PlanStatus.ROLLED_BACK),
        PlanStatus.ROLLED_BACK: (PlanStatus.EXECUTING, PlanStatus.DRAFT),
    },
)


class ExecutionStatus(StrEnum):
    """Where one run of a plan in one environment stands."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"  # for an approval, a window or a worker
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled-back"


EXECUTION = _lifecycle(
    "execution",
    ExecutionStatus,
    ExecutionStatus.PENDING,
    after={
        ExecutionStatus.PENDING: (ExecutionStatus.RUNNING, ExecutionStatus.WAITING, ExecutionStatus.CANCELLED),
        # A run that meets a step without its approval, or the end of its window, waits again.
        ExecutionStatus.WAITING: (
            ExecutionStatus.RUNNING,
            ExecutionStatus.PAUSED,
            ExecutionStatus.FAILED,
            ExecutionStatus.CANCELLED,
        ),
        ExecutionStatus.RUNNING: (
            ExecutionStatus.WAITING,
            ExecutionStatus.PAUSED,
            ExecutionStatus.COMPLETED,
            ExecutionStatus.FAILED,
            ExecutionStatus.CANCELLED,
            ExecutionStatus.ROLLED_BACK,
        ),
        # Waiting: handed over to workers, none of which has it yet.
        ExecutionStatus.PAUSED: (
            ExecutionStatus.RUNNING,
            ExecutionStatus.WAITING,
            ExecutionStatus.CANCELLED,
            ExecutionStatus.ROLLED_BACK,
        ),
        ExecutionStatus.FAILED: (
            ExecutionStatus.RUNNING,
            ExecutionStatus.WAITING,
            ExecutionStatus.ROLLED_BACK,
            ExecutionStatus.CANCELLED,
        ),
        # From the ends of the way forward only a rollback begins: running, with direction backward.
        ExecutionStatus.COMPLETED: (ExecutionStatus.RUNNING, ExecutionStatus.WAITING, ExecutionStatus.ROLLED_BACK),
        ExecutionStatus.CANCELLED: (ExecutionStatus.RUNNING, ExecutionStatus.WAITING, ExecutionStatus.ROLLED_BACK),
    },
)


class StepRunStatus(StrEnum):
    """Where one step of an execution stands, in one direction."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    WARNED = "warned"  # it failed, and the plan says that this only warns
    UNDONE = "undone"
    WAITING = "waiting"  # for an approval, a time, or a condition


STEP_RUN = _lifecycle(
    "step",
    StepRunStatus,
    StepRunStatus.PENDING,
    after={
        StepRunStatus.PENDING: (
            StepRunStatus.RUNNING,
            StepRunStatus.SKIPPED,
            # The target already shows the effect: a killed run did the step but could not write it down.
            StepRunStatus.COMPLETED,
            StepRunStatus.UNDONE,
            StepRunStatus.WAITING,
        ),
        StepRunStatus.RUNNING: (
            StepRunStatus.COMPLETED,
            StepRunStatus.FAILED,
            StepRunStatus.WARNED,
            StepRunStatus.SKIPPED,
            StepRunStatus.UNDONE,
            # Another step beside it failed, or the run stopped: it is begun again.
            StepRunStatus.PENDING,
            StepRunStatus.WAITING,
        ),
        StepRunStatus.WAITING: (
            StepRunStatus.RUNNING,
            StepRunStatus.PENDING,
            StepRunStatus.COMPLETED,
            StepRunStatus.SKIPPED,
            StepRunStatus.UNDONE,
        ),
        StepRunStatus.FAILED: (
            StepRunStatus.RUNNING,
            StepRunStatus.SKIPPED,
            StepRunStatus.COMPLETED,
            StepRunStatus.UNDONE,
        ),
        StepRunStatus.WARNED: (StepRunStatus.RUNNING, StepRunStatus.UNDONE),
        StepRunStatus.COMPLETED: (StepRunStatus.UNDONE,),
        StepRunStatus.SKIPPED: (StepRunStatus.RUNNING, StepRunStatus.UNDONE),
        StepRunStatus.UNDONE: (StepRunStatus.RUNNING,),
    },
)


class JobStatus(StrEnum):
    """Where a data migration job stands."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


JOB = _lifecycle(
    "job",
    JobStatus,
    JobStatus.PENDING,
    after={
        JobStatus.PENDING: (JobStatus.RUNNING, JobStatus.CANCELLED),
        JobStatus.RUNNING: (JobStatus.PAUSED, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED),
        JobStatus.PAUSED: (JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELLED),
        JobStatus.FAILED: (JobStatus.RUNNING, JobStatus.CANCELLED),
    },
)


class BatchStatus(StrEnum):
    """Where one batch of a data migration job stands."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    RETRYING = "retrying"


BATCH = _lifecycle(
    "batch",
    BatchStatus,
    BatchStatus.PENDING,
    # A batch is often written down only when its work is done, in one statement for many.
    BatchStatus.RUNNING,
    BatchStatus.COMPLETED,
    after={
        BatchStatus.PENDING: (BatchStatus.RUNNING,),
        # Back to pending: its worker died, and somebody else may claim it.
        BatchStatus.RUNNING: (
            BatchStatus.COMPLETED,
            BatchStatus.FAILED,
            BatchStatus.RETRYING,
            BatchStatus.PENDING,
        ),
        BatchStatus.RETRYING: (BatchStatus.RUNNING, BatchStatus.COMPLETED, BatchStatus.FAILED),
        BatchStatus.FAILED: (BatchStatus.RETRYING, BatchStatus.PENDING),
    },
)


class OnlineChangePhase(StrEnum):
    """How far an online schema change is."""

    PENDING = "pending"
    CREATING_SHADOW = "creating-shadow"
    CAPTURING = "capturing"
    COPYING_DATA = "copying-data"
    DRAINING = "draining"
    VERIFYING = "verifying"
    SWAPPING = "swapping"
    REVERSIBLE = "reversible"  # swapped, and the old table is kept current for the way back
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled-back"


_GIVEN_UP = (OnlineChangePhase.FAILED, OnlineChangePhase.CANCELLED, OnlineChangePhase.ROLLED_BACK)

ONLINE_CHANGE = _lifecycle(
    "online change",
    OnlineChangePhase,
    OnlineChangePhase.PENDING,
    after={
        # A change that needs no shadow table swaps at once.
        OnlineChangePhase.PENDING: (OnlineChangePhase.CREATING_SHADOW, OnlineChangePhase.SWAPPING, *_GIVEN_UP),
        OnlineChangePhase.CREATING_SHADOW: (OnlineChangePhase.CAPTURING, *_GIVEN_UP),
        OnlineChangePhase.CAPTURING: (OnlineChangePhase.COPYING_DATA, *_GIVEN_UP),
        # TRUNCATE on the original empties the shadow, and the copy starts again, whatever was done after it.
        OnlineChangePhase.COPYING_DATA: (OnlineChangePhase.DRAINING, OnlineChangePhase.CAPTURING, *_GIVEN_UP),
        OnlineChangePhase.DRAINING: (
            OnlineChangePhase.VERIFYING,
            OnlineChangePhase.CAPTURING,
            OnlineChangePhase.COPYING_DATA,
            *_GIVEN_UP,
        ),
        OnlineChangePhase.VERIFYING: (
            OnlineChangePhase.SWAPPING,
            OnlineChangePhase.DRAINING,
            OnlineChangePhase.CAPTURING,
            OnlineChangePhase.COPYING_DATA,
            *_GIVEN_UP,
        ),
        # Back to draining: the locks for the swap were not to be had in time.
        OnlineChangePhase.SWAPPING: (
            OnlineChangePhase.REVERSIBLE,
            OnlineChangePhase.COMPLETED,
            OnlineChangePhase.VERIFYING,
            OnlineChangePhase.DRAINING,
            OnlineChangePhase.CAPTURING,
            OnlineChangePhase.COPYING_DATA,
            *_GIVEN_UP,
        ),
        OnlineChangePhase.REVERSIBLE: (
            OnlineChangePhase.COMPLETED,
            OnlineChangePhase.ROLLED_BACK,
            OnlineChangePhase.FAILED,
        ),
        # What needed no shadow table has a way back of its own, and a change that was cancelled after a part of that.
        OnlineChangePhase.COMPLETED: (OnlineChangePhase.ROLLED_BACK,),
        OnlineChangePhase.CANCELLED: (OnlineChangePhase.ROLLED_BACK,),
        OnlineChangePhase.FAILED: (
            OnlineChangePhase.PENDING,
            OnlineChangePhase.CREATING_SHADOW,
            OnlineChangePhase.CAPTURING,
            OnlineChangePhase.COPYING_DATA,
            OnlineChangePhase.DRAINING,
            OnlineChangePhase.VERIFYING,
            OnlineChangePhase.SWAPPING,
            OnlineChangePhase.REVERSIBLE,
            OnlineChangePhase.COMPLETED,
            OnlineChangePhase.CANCELLED,
            OnlineChangePhase.ROLLED_BACK,
        ),
    },
)


class ShadowSync(StrEnum):
    """Whether a shadow table equals its original."""

    SYNCING = "syncing"
    SYNCED = "synced"
    DIVERGED = "diverged"


SHADOW_SYNC = _lifecycle(
    "shadow table",
    ShadowSync,
    ShadowSync.SYNCING,
    after={
        ShadowSync.SYNCING: (ShadowSync.SYNCED, ShadowSync.DIVERGED),
        ShadowSync.SYNCED: (ShadowSync.SYNCING, ShadowSync.DIVERGED),
        ShadowSync.DIVERGED: (ShadowSync.SYNCING,),
    },
)


class DeploymentPhase(StrEnum):
    """How far a blue-green deployment is."""

    PREPARING = "preparing"
    MIGRATING = "migrating"
    VALIDATING = "validating"
    SWITCHING = "switching"
    COMPLETED = "completed"


DEPLOYMENT = _lifecycle(
    "deployment",
    DeploymentPhase,
    DeploymentPhase.PREPARING,
    after={
        DeploymentPhase.PREPARING: (DeploymentPhase.MIGRATING,),
        DeploymentPhase.MIGRATING: (DeploymentPhase.VALIDATING, DeploymentPhase.PREPARING),
        DeploymentPhase.VALIDATING: (DeploymentPhase.SWITCHING, DeploymentPhase.MIGRATING, DeploymentPhase.PREPARING),
        # Back to validating: the switch timed out under its fence and nothing happened.
        DeploymentPhase.SWITCHING: (DeploymentPhase.COMPLETED, DeploymentPhase.VALIDATING),
        # The switch back is a switch too.
        DeploymentPhase.COMPLETED: (DeploymentPhase.SWITCHING,),
    },
)


class DeprecationStatus(StrEnum):
    """Where a deprecated table, column, index or constraint stands."""

    DEPRECATED = "deprecated"
    WARNING = "warning"
    REMOVED = "removed"


DEPRECATION = _lifecycle(
    "deprecation",
    DeprecationStatus,
    DeprecationStatus.DEPRECATED,
    after={
        DeprecationStatus.DEPRECATED: (DeprecationStatus.WARNING, DeprecationStatus.REMOVED),
        DeprecationStatus.WARNING: (DeprecationStatus.DEPRECATED, DeprecationStatus.REMOVED),
        # A rollback brought the element back.
        DeprecationStatus.REMOVED: (DeprecationStatus.DEPRECATED,),
    },
)


class RecoveryStatus(StrEnum):
    """Where a point-in-time recovery stands."""

    PLANNED = "planned"
    IN_PROGRESS = "in-progress"
    COMPLETED = "completed"
    FAILED = "failed"


RECOVERY = _lifecycle(
    "recovery",
    RecoveryStatus,
    RecoveryStatus.PLANNED,
    after={
        RecoveryStatus.PLANNED: (RecoveryStatus.IN_PROGRESS, RecoveryStatus.FAILED),
        RecoveryStatus.IN_PROGRESS: (RecoveryStatus.COMPLETED, RecoveryStatus.FAILED),
        RecoveryStatus.FAILED: (RecoveryStatus.PLANNED, RecoveryStatus.IN_PROGRESS),
    },
)


class IncidentStatus(StrEnum):
    """Where an incident stands."""

    OPEN = "open"
    INVESTIGATING = "investigating"
    RESOLVED = "resolved"
    CLOSED = "closed"


INCIDENT = _lifecycle(
    "incident",
    IncidentStatus,
    IncidentStatus.OPEN,
    after={
        IncidentStatus.OPEN: (IncidentStatus.INVESTIGATING, IncidentStatus.RESOLVED, IncidentStatus.CLOSED),
        IncidentStatus.INVESTIGATING: (IncidentStatus.RESOLVED, IncidentStatus.CLOSED),
        IncidentStatus.RESOLVED: (IncidentStatus.INVESTIGATING, IncidentStatus.CLOSED),
        IncidentStatus.CLOSED: (IncidentStatus.INVESTIGATING,),
    },
)


class IncidentActionStatus(StrEnum):
    """Where one action on an incident stands."""

    PENDING = "pending"
    IN_PROGRESS = "in-progress"
    COMPLETED = "completed"
    FAILED = "failed"


INCIDENT_ACTION = _lifecycle(
    "incident action",
    IncidentActionStatus,
    IncidentActionStatus.PENDING,
    after={
        IncidentActionStatus.PENDING: (
            IncidentActionStatus.IN_PROGRESS,
            IncidentActionStatus.COMPLETED,
            IncidentActionStatus.FAILED,
        ),
        IncidentActionStatus.IN_PROGRESS: (IncidentActionStatus.COMPLETED, IncidentActionStatus.FAILED),
        IncidentActionStatus.FAILED: (IncidentActionStatus.IN_PROGRESS,),
    },
)


class SuiteStatus(StrEnum):
    """Where a test suite stands: the outcome of its last run."""

    PENDING = "pending"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    CANCELLED = "cancelled"


SUITE = _lifecycle(
    "suite",
    SuiteStatus,
    SuiteStatus.PENDING,
    after={
        SuiteStatus.PENDING: (SuiteStatus.RUNNING, SuiteStatus.CANCELLED),
        SuiteStatus.RUNNING: (SuiteStatus.PASSED, SuiteStatus.FAILED, SuiteStatus.CANCELLED),
        SuiteStatus.PASSED: (SuiteStatus.RUNNING,),
        SuiteStatus.FAILED: (SuiteStatus.RUNNING,),
        SuiteStatus.CANCELLED: (SuiteStatus.RUNNING,),
    },
)


class SuiteRunStatus(StrEnum):
    """Where one run of a test suite stands."""

    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    CANCELLED = "cancelled"


SUITE_RUN = _lifecycle(
    "suite run",
    SuiteRunStatus,
    SuiteRunStatus.RUNNING,
    after={SuiteRunStatus.RUNNING: (SuiteRunStatus.PASSED, SuiteRunStatus.FAILED, SuiteRunStatus.CANCELLED)},
)


class ApprovalStatus(StrEnum):
    """Whether an approval counts."""

    GRANTED = "granted"
    REVOKED = "revoked"


APPROVAL = _lifecycle(
    "approval",
    ApprovalStatus,
    ApprovalStatus.GRANTED,
    after={ApprovalStatus.GRANTED: (ApprovalStatus.REVOKED,)},
)


class WorkerStatus(StrEnum):
    """Whether a worker takes work."""

    RUNNING = "running"
    DRAINING = "draining"  # finishes what it has, takes nothing new
    STOPPED = "stopped"


WORKER = _lifecycle(
    "worker",
    WorkerStatus,
    WorkerStatus.RUNNING,
    after={
        WorkerStatus.RUNNING: (WorkerStatus.DRAINING, WorkerStatus.STOPPED),
        WorkerStatus.DRAINING: (WorkerStatus.STOPPED,),
    },
)
