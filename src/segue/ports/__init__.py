"""What the engine, the steps and the services need of a database: protocols that `segue.databases` implements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    from segue.model.checks import Checkup
    from segue.model.cleaning import Cleaned
    from segue.model.facts import TargetFacts
    from segue.model.fences import FenceState
    from segue.model.impact import Statement
    from segue.model.jobs import JobSpec
    from segue.model.online import Alteration, ChangeSpec, Conflict, Kept, Retained
    from segue.model.probe import Probe
    from segue.model.shapes import Shape
    from segue.model.splits import CrossingKey, Invariant, Split, Survey
    from segue.model.throttling import Signals, ThrottleSettings
    from segue.ports.jobs import DataJob
    from segue.ports.moving import Mirror, Mover, Moves, Reshaper, Router
    from segue.ports.online import ChangeRecord, OnlineChange
    from segue.ports.outbox import Outbox, Relay
    from segue.ports.verifying import Verifier

FORWARD = "forward"
BACKWARD = "backward"


class Observed(Enum):
    """What the target shows of an effect."""

    DONE = "done"
    NOT_DONE = "not done"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True)
class EffectKey:
    """Names one effect on a target for good: the `part`-th piece of a step, in one direction, of one execution."""

    execution: str
    plan: str
    plan_hash: str
    step: str
    direction: str
    part: int


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session that holds what a statement waits for."""

    pid: int
    who: str
    state: str
    query: str
    seconds: float | None  # None: of another role, and not to be seen
    lock: str
    table: str
    autovacuum: bool = False

    def line(self) -> str:
        """Return the blocker as one line for people."""
        what = f"{self.lock} on {self.table}" if self.table else self.lock
        since = f" for {self.seconds:.0f} s" if self.seconds is not None else ""
        query = f": {self.query}" if self.query else ""
        if not self.pid:  # a prepared transaction is of no session
            return f"{self.who} holds {what}"
        return f"pid {self.pid} ({self.who}, {self.state}{since}) holds {what}{query}"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try. `locks`: seconds spent trying to get locks, in slices; `work`: seconds the work may take."""

    locks: float
    work: float


@dataclass(slots=True)
class Waits:
    """What waiting for locks has cost so far."""

    slices: int = 0
    seconds: float = 0.0
    blockers: list[Blocker] = field(default_factory=list)
    #: The longest slice, in seconds: as long as that the application may have queued behind a try.
    longest: float = 0.0
    #: What was tried for last in vain; how long to rest between tries for it, and until which tick.
    wanted: str = ""
    pause: float = 0.0
    until: float = 0.0
    same: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A finished piece of chunked work: keys in (`after`, `until`], None for an open end; values as text.

    With more than one of `lanes`, only the rows of this `lane` (from 0): every key is in one lane, whoever asks.
    """

    number: int
    after: tuple[str, ...] | None
    until: tuple[str, ...] | None
    keys: int
    rows: int
    milliseconds: int
    worker: str = ""
    lane: int = 0
    lanes: int = 1
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """A range to work on: keys in (`after`, `until`], of which there were `keys`; `last` ends the table.

    `shares` are the keys by lane. With more than one of `lanes`, only this `lane` is meant, though `keys` counts all.
    """

    after: tuple[str, ...] | None
    until: tuple[str, ...] | None
    keys: int
    last: bool
    shares: tuple[int, ...] = ()
    lane: int = 0
    lanes: int = 1

    @property
    def meant(self) -> int:
        """Return how many keys there are to be worked on."""
        if self.lanes == 1:
            return self.keys
        return self.shares[self.lane] if self.shares else 0


@dataclass(frozen=True, slots=True)
class BackfillSpec:
    """What a backfill writes: SQL expressions by column, where, in which table. Texts are SQL of the target."""

    table: str
    assignments: Mapping[str, str]
    where: str | None


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast data work may go: `duty` is the share of the time that a labourer works, 0 stops it.

    `workers`: most labourers at a time, None for as many as the step says; `reason`: why it is not full speed.
    `watched`: a budget on the application's latency is to hold, so that what cannot be slowed down once it runs has to
    begin gently.
    """

    duty: float = 1.0
    workers: int | None = None
    reason: str = ""
    watched: bool = False


@dataclass(frozen=True, slots=True)
class Approved:
    """A person's word that something may run."""

    by: str
    reason: str
    at: datetime
    expires: datetime | None


@dataclass(frozen=True, slots=True)
class Drift:
    """What changed in a schema behind Segue's back: lines such as `index orders_by_day appeared`."""

    since: str
    changes: list[str]


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at the target while work goes on. Times in milliseconds, WAL position in bytes."""

    round_trip_ms: float
    lock_waiters: int
    active: int
    wal_bytes: int


class Gauge(Protocol):
    """Looks at a target again and again, on sessions of its own that are opened anew when they are lost.

    Any thread may call it; `time` and the statistics on statements hold up nothing else.
    """

    def sample(self) -> Sample:
        """Take a quick look; cheap enough for twice a second."""
        ...

    def signals(self, limits: ThrottleSettings, replicas: Sequence[str]) -> Signals:
        """Read every signal and compare it with its limit; `replicas` must be connected."""
        ...

    def time(self, query: str | None) -> float:
        """Run a probe read-only, of the database's own choice where there is none; return its milliseconds."""
        ...

    def statements(self) -> float | None:
        """Return the mean milliseconds of the application's statements that ended since the last call; None for none.

        Raises StepFailed when the server's statistics on statements cannot be read.
        """
        ...

    def statements_missing(self) -> str | None:
        """Return why the server's statistics on statements cannot be read; None when they can."""
        ...

    def close(self) -> None:
        """End its sessions."""
        ...


class Throttle(Protocol):
    """What keeps data work polite: the monitor has it look and tell, the steps ask it for the pace."""

    def begin(self, gauge: Gauge) -> None:
        """Take a first look, so that there is a pace before the first step."""
        ...

    def look(self) -> None:
        """Look at the target, and change the pace if need be; raises nothing. Called twice a second."""
        ...

    def pace(self) -> Pace:
        """Return how fast data work may go now."""
        ...

    def refresh(self) -> None:
        """Take over what people have set since the last call; called every few seconds, by another thread."""
        ...

    def changes(self) -> list[tuple[str, str]]:
        """Return what is to be logged since the last call: an action and a sentence each."""
        ...

    def status(self) -> dict[str, Any]:
        """Return pace, reason and readings as JSON values."""
        ...

    def end(self) -> None:
        """Stop looking."""
        ...


class ChunkTooSlow(Exception):
    """A chunk gave way, to a row lock or to its time limit; it was rolled back and should be made smaller."""


class BatchLost(Exception):
    """A batch is not this labourer's any more; what it had begun of a chunk was rolled back."""


class NotOffered(Exception):
    """Nothing of this work is offered to labourers: it has not begun, or is over."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A range of chunked work that is offered to labourers: keys in (`after`, `until`], of which there were `keys`.

    `lane` None means each of its `lanes`, one after the other, else only that one. `size` is how many keys a chunk
    should have as far as the driver knows; `slowest` is the longest time of a chunk, in milliseconds, and
    `slowest_keys` its keys; `fits` is the size to which a labourer came that had to make chunks smaller. `token` grows
    with each claim; only who holds the last one may write. `written` counts the keys done, `rows` those changed.
    """

    number: int
    after: tuple[str, ...] | None
    until: tuple[str, ...] | None
    keys: int
    lanes: int = 1
    lane: int | None = None
    shares: tuple[int, ...] = ()
    size: int = 1
    state: str = "pending"  # or claimed, done
    owner: str = ""
    token: int = 0
    retries: int = 0
    written: int = 0
    rows: int = 0
    milliseconds: int = 0
    slowest: int = -1
    slowest_keys: int = 0
    fits: int | None = None
    failure: Mapping[str, Any] | None = None
    claimed_at: datetime | None = None
    done_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a labourer stands: whether the work goes on, at which pace, and how many labourers came before this one."""

    going: bool
    pace: Pace = Pace()
    rank: int = 0

    @property
    def may_work(self) -> bool:
        """Return whether this labourer may begin another chunk."""
        workers = self.pace.workers
        return self.going and self.pace.duty > 0 and (workers is None or self.rank < workers)


@dataclass(frozen=True, slots=True)
class Position:
    """What the target shows of earlier offers: batches that are not done, and the one offered last."""

    unfinished: Sequence[Batch]
    last: Batch | None


class Board(Protocol):
    """Where batches of one piece of work are offered, in the target: the side of who drives it."""

    def open(self, pace: Pace) -> Position:
        """Begin to offer, taking back whatever was claimed under an earlier offer, this process's own included."""
        ...

    def offer(self, batches: Sequence[Batch]) -> None:
        """Offer batches to whoever labours."""
        ...

    def look(self, numbers: Sequence[int]) -> list[Batch]:
        """Return how these batches stand."""
        ...

    def publish(self, pace: Pace, lowest: int) -> None:
        """Tell all labourers the pace, and below which number everything is done."""
        ...

    def labourers(self) -> list[str]:
        """Return who shows signs of life."""
        ...

    def known(self) -> list[Batch]:
        """Return every batch; chunks that an older version wrote without any count as batches that are done."""
        ...

    def close(self, *, ended: bool) -> None:
        """Offer no more. When it returns, no labourer writes or will write, and what was claimed is taken back."""
        ...


class ChunkedWork(Protocol):
    """Work on a table in key order that can stop after any chunk and go on from there."""

    key: tuple[str, ...]
    #: In how many lanes, one after the other, a range is best written; the same for as long as the work lasts.
    lanes: int

    @property
    def board(self) -> Board:
        """Return where the work is offered, and claimed by labourers."""
        ...

    #: Who works here, as the lease or whoever joined it says.
    holder: str

    def estimate(self) -> int:
        """Return about how many rows the table has."""
        ...

    def progress(self, direction: str | None = None, *, loose: bool = False) -> list[Chunk]:
        """Return the chunks that the target says are done, in key order; of this direction, or of another one.

        `loose`: only those of no batch, as an older version wrote them.
        """
        ...

    def cut(self, after: tuple[str, ...] | None, size: int, until: tuple[str, ...] | None = None) -> Cut | None:
        """Return the next range of at most `size` keys after `after`, up to `until` or to the end of the work.

        None when there is nothing left. Called by one thread at a time.
        """
        ...

    def open(self, owner: str) -> AbstractContextManager[ChunkWriter]:
        """Open a writer: one session that one labourer uses, under a name of its own."""
        ...


class ChunkWriter(Protocol):
    """One labourer's session. Each of its methods raises FenceLost when the lease has moved on."""

    #: As of the last chunk, or of the last `beat`.
    standing: Standing

    def beat(self) -> Standing:
        """Give a sign of life, and look at the pace. A labourer that was not heard of for long loses its batches."""
        ...

    def claim(self, most: int) -> list[Batch]:
        """Take batches that nobody works on, the lowest first; of those that were claimed before, some may be done."""
        ...

    def done(self, batch: Batch) -> list[Chunk]:
        """Return the chunks of a batch that are done, in key order."""
        ...

    def cut(self, after: tuple[str, ...] | None, size: int, until: tuple[str, ...] | None) -> Cut | None:
        """See `ChunkedWork.cut`."""
        ...

    def write(self, batch: Batch, cut: Cut, *, last: bool, fits: int | None) -> None:
        """Do a range of a batch and record it in one transaction; with the `last` one the batch is done.

        Raises ChunkTooSlow when the range must be made smaller; BatchLost when another labourer has the batch;
        OutcomeUnknown when the connection was lost.
        """
        ...

    def write_all(self, batches: Sequence[Batch]) -> bool:
        """Do several small batches, of one lane each and untouched so far, in one transaction.

        False when that was rolled back, for whatever reason: each is to be done by itself. Raises OutcomeUnknown.
        """
        ...

    def give_back(self, batches: Sequence[Batch]) -> None:
        """Let others claim these, as far as they are still this labourer's."""
        ...

    def fail(self, batch: Batch, error: Mapping[str, Any]) -> None:
        """Let nobody claim this one, and tell the driver why."""
        ...


@dataclass(frozen=True, slots=True)
class Shared:
    """Work that labourers share: a chunk should take `seconds` and has `largest` keys at most.

    `pause` seconds are waited after each.
    """

    work: ChunkedWork
    seconds: float
    largest: int
    pause: float = 0.0


@runtime_checkable
class SharedKind(Protocol):
    """A step kind whose work labourers of other processes can share."""

    def shared(self, params: Any, target: Target, key: EffectKey, patience: Patience) -> Shared:
        """Return the work that the driver of this step offers, in the direction of `key`.

        Raises NotOffered when it does not do so yet.
        """
        ...


@runtime_checkable
class ChangingKind(Protocol):
    """A step kind that changes tables online."""

    def change(self, params: Any) -> ChangeSpec:
        """Return what is asked of the database."""
        ...


class ApplicationFence(Protocol):
    """Keeps an application's writes out of a target. Whatever is asked may be asked again after a death."""

    def state(self) -> FenceState | None:
        """Return how the fence stands, whoever's it is; None where there never was one."""
        ...

    def arm(
        self,
        direction: str,
        tables: Sequence[str] | None,
        patience: Patience,
        note: Callable[[str], None],
        *,
        triggers: bool = True,
    ) -> int:
        """Make what closing needs, on the tables named or all of the schema; return on how many.

        Without `triggers` only the record is made, for a fence that a command closes. Raises Blocked when another
        execution's fence still stands.
        """
        ...

    def closing(self, seconds: float) -> FenceState:
        """Record that the fence is about to be closed: the time counts from here."""
        ...

    def close(
        self,
        tables: Sequence[str] | None,
        patience: Patience,
        note: Callable[[str], None],
        *,
        triggers: bool = True,
    ) -> FenceState:
        """Refuse the application's writes, table by table, once those that have begun are over.

        Without `triggers` it is only recorded that a command has done so. Raises LockNotGranted when they are not over
        in time; the fence is open again then.
        """
        ...

    def hold(self, patience: Patience, note: Callable[[str], None]) -> list[str]:
        """Close it again where somebody has switched its triggers off; return on which tables."""
        ...

    def adopt(self, direction: str) -> FenceState:
        """Keep a closed fence for the other direction."""
        ...

    def open(self) -> FenceState:
        """Let the application in again; waits for nobody."""
        ...

    def disarm(self, seconds: float, note: Callable[[str], None]) -> list[str]:
        """Remove what is left of an open fence; return the tables that could not be locked for it in that time."""
        ...


@dataclass(frozen=True, slots=True)
class Access:
    """How a program of the user's reaches a target: variables of its environment, and what in them is secret.

    With `holder` and `schema` a process of Segue's own joins the target there.
    """

    variables: Mapping[str, str]
    secrets: tuple[str, ...]
    holder: str
    schema: str


class Programs(Protocol):
    """Effects on a target that programs bring about through sessions of their own, under the lease."""

    def access(self, key: EffectKey) -> Access:
        """Return how a program reaches the target, so that its sessions are known as this effect's."""
        ...

    def end_sessions(self, key: EffectKey) -> int:
        """End the sessions of this effect's program, once it has ended itself; return how many there still were."""
        ...

    def begun(self, key: EffectKey) -> int | None:
        """Return under which fence an effect was begun that has not ended; None when there is none."""
        ...

    def begin(self, key: EffectKey, text: str) -> None:
        """Record that an effect is about to be brought about."""
        ...

    def finish(self, key: EffectKey) -> None:
        """Record that an effect that was begun has been brought about."""
        ...

    def forget(self, key: EffectKey) -> None:
        """Record that an effect that was begun is not there."""
        ...

    def call(
        self,
        key: EffectKey,
        text: str,
        patience: Patience,
        note: Callable[[str], None],
        function: Callable[[Any], object],
        *,
        transaction: bool,
    ) -> None:
        """Call a function with the driver's session as its argument; `text` says what it is.

        With `transaction`, what it does and the record of it are one transaction, and the function is called again
        when a lock could not be had. Otherwise it is recorded by `begin` and `finish`.
        """
        ...


class Target(Protocol):
    """A database under the lease of one execution."""

    waits: Waits
    #: Sessions of earlier runs that were ended when the lease was taken.
    taken_over: list[str]
    #: Finds the URL of another environment, for steps that read from there; set by whoever opens the target.
    places: Callable[[str], str]

    @property
    def fence(self) -> int:
        """Return the number of this holding of the lease; it only grows."""
        ...

    def alive(self) -> None:
        """Raise FenceLost or TargetUnreachable when the lease is gone."""
        ...

    def recover(self, patience: float) -> None:
        """After a lost connection: reach the target again, under the same lease, or raise."""
        ...

    def apply(
        self, key: EffectKey, statements: Sequence[Statement], patience: Patience, note: Callable[[str], None]
    ) -> None:
        """Bring about one effect once: all statements in one transaction, or one that must stand alone."""
        ...

    def settle(
        self, key: EffectKey, statements: Sequence[Statement], patience: Patience, note: Callable[[str], None]
    ) -> None:
        """Bring an effect that was begun to done or to not there, whichever is nearer."""
        ...

    def take_back(
        self,
        keys: Sequence[EffectKey],
        statements: Sequence[Statement],
        patience: Patience,
        note: Callable[[str], None],
    ) -> None:
        """Take effects back that were done, and forget them: they can be brought about again."""
        ...

    def observe(self, key: EffectKey) -> Observed:
        """Look whether the effect took place."""
        ...

    def resolve(self, key: EffectKey, observed: Observed) -> None:
        """Record what a person has seen of an effect that cannot be told."""
        ...

    def mark(self, key: EffectKey, detail: Mapping[str, Any]) -> None:
        """Record an effect that consists of others (a finished backfill) as done."""
        ...

    def parts(self, execution: str, step: str, direction: str) -> dict[int, Observed]:
        """Return what the target's history says of a step's parts: DONE or CANNOT_TELL (begun, not ended)."""
        ...

    def query(self, sql: str, timeout: float, *, limit: int = 1000) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run a query in a read-only transaction; return column names and at most `limit` rows."""
        ...

    def backfill(self, key: EffectKey, spec: BackfillSpec, patience: Patience) -> ChunkedWork:
        """Prepare a backfill; raises StepFailed when the table has no usable key."""
        ...

    def data_job(self, key: EffectKey, spec: JobSpec) -> DataJob:
        """Prepare a data job; raises StepFailed for whatever about it could not work."""
        ...

    def application_fence(self) -> ApplicationFence:
        """Return the application's fence here; after `recover` it must be asked for again."""
        ...

    def online(self, key: EffectKey, spec: ChangeSpec) -> OnlineChange:
        """Return a step's online change, begun or not; after `recover` it must be asked for again."""
        ...

    def changing(self, key: EffectKey) -> bool:
        """Return whether a step's online change was drawn up here."""
        ...

    def programs(self) -> Programs:
        """Return how programs work on this target; after `recover` it must be asked for again."""
        ...

    def drift(self, schema: str) -> Drift | None:
        """Compare the schema with what Segue last left there; None when equal or never seen."""
        ...

    def remember(self, schema: str, key: EffectKey | None) -> str:
        """Record the schema as it is now, as Segue leaves it; return its fingerprint."""
        ...

    def refresh(self) -> None:
        """Open this one's sessions anew where a branch has recovered the lease, and so ended them; else do nothing."""
        ...

    def branch(self) -> AbstractContextManager[Target]:
        """Open sessions of their own under the same lease, for work that goes on beside other work."""
        ...

    def gauge(self) -> Gauge:
        """Return a look at the target that goes on beside the work, and outlives a lost connection."""
        ...

    def close(self) -> None:
        """Give the lease back."""
        ...


class Database(Protocol):
    """A kind of database server."""

    name: str

    def statements(self, sql: str) -> list[Statement]:
        """Parse SQL and predict what each statement does; raises InvalidInput."""
        ...

    def alterations(self, sql: str) -> list[Alteration]:
        """Name what the parts of an ALTER TABLE do; nothing for any other statement. Raises InvalidInput."""
        ...

    def alter_tables(self, sql: str) -> list[tuple[str, str]]:
        """Split ALTER TABLE statements into the table, as written there, and what comes after it.

        Raises InvalidInput for any other statement, SqlSyntaxError for what is no SQL.
        """
        ...

    def online_conflicts(
        self, url: str, *, execution: str, step: str, limit: int = 100
    ) -> tuple[int, list[tuple[Conflict, list[str]]]]:
        """Return how many rows a step's online change refuses, and some of them with what could be done about each.

        A person may choose one of the statements. Looks beside whoever works there, without the lease; raises
        TargetUnreachable.
        """
        ...

    def online_waiting(self, url: str, *, execution: str, step: str, most: int = 1_000_000) -> int | None:
        """Return how many writes wait to be brought to the old tables of a reversible change, counted up to `most`.

        None when there is no such change here. Looks beside whoever works there; raises TargetUnreachable.
        """
        ...

    def online_keep(
        self, url: str, *, execution: str, step: str, seconds: float, rest: Callable[[float], bool]
    ) -> Kept | None:
        """Bring what was written since the swap to the old tables of a reversible change, for about so many seconds.

        In short transactions, in none of which anybody else holds the lease; a run is not disturbed. `rest` gets the
        seconds that were worked, waits for as long as is polite, and returns whether to go on. None when there is no
        such change here. Raises TargetUnreachable.
        """
        ...

    def online_retained(self, url: str, *, execution: str, step: str, limit: int) -> Retained | None:
        """Look at what the server's log keeps back for an unfinished online change that nobody drives.

        With more than `limit` bytes its slot is given up; the copy begins anew when the change goes on. None where
        nothing is kept back, or somebody reads it. Raises TargetUnreachable.
        """
        ...

    def mover(self, move: str, source: str, target: str) -> Mover:
        """Take up a move, by its id, of tables from one database to another; opens nothing yet."""
        ...

    def reshaper(self, move: str, source: str, target: str, shape: Shape) -> Reshaper:
        """Take up a move of tables to others of another shape; opens nothing yet."""
        ...

    def mirror(self, move: str, source: str, target: str, home: str) -> Mirror:
        """Take up read-only copies of tables in another database; `home` is the source's name. Opens nothing yet."""
        ...

    def router(self, move: str, source: str, target: str) -> Router:
        """Take up what an application is told of a move; opens nothing yet."""
        ...

    def outbox(self, url: str) -> Outbox:
        """Take up the outbox of a database; opens nothing yet."""
        ...

    def relay(self, source: str, target: str, note: Callable[[str], None]) -> Relay:
        """Take up what goes from one database's outbox to another database; opens nothing yet."""
        ...

    def verifier(self, a: str, b: str, jobs: int) -> Verifier:
        """Take up two databases to be compared, so many ranges at a time."""
        ...

    def survey(self, url: str, split: Split) -> Survey:
        """Find what a split of this database cuts; changes nothing."""
        ...

    def invariant(self, child: str, parent: str, key: CrossingKey) -> Invariant:
        """Look whether a foreign key still holds whose tables are in two databases."""
        ...

    def probe(self, url: str) -> Probe:
        """Look at a database: version, size, traffic, privileges."""
        ...

    def identity(self, url: str) -> dict[str, Any]:
        """Return what tells this database from every other one, as JSON values; `None` for what cannot be seen."""
        ...

    def check(self, url: str, *, schema: str) -> Checkup:
        """Look at everything that a migration there could trip over; changes nothing, raises TargetUnreachable."""
        ...

    def assess(
        self,
        url: str,
        *,
        schema: str,
        steps: Sequence[Sequence[Statement]],
        changes: Mapping[int, ChangeSpec] | None = None,
    ) -> TargetFacts:
        """Say what the statements of a plan's steps, in the order of a run, meet on this target.

        `changes`: what the steps at these places change online; they are looked at by how that would be done here.
        Takes about a second whatever the database's size: no scans, no waiting for locks. Raises only what keeps it
        from looking at all (TargetUnreachable, PrivilegeMissing, ConfigurationError).
        """
        ...

    def open_target(self, url: str, *, execution: str, holder: str, schema: str) -> Target:
        """Take the lease on a target; raises Busy with the holder's name."""
        ...

    def join_target(self, url: str, *, execution: str, holder: str, fence: int, schema: str) -> Target:
        """Open sessions under a lease that another process holds; what they write is refused once it moves on.

        Raises FenceLost when it has moved on already.
        """
        ...

    def gauge(self, url: str) -> Gauge:
        """Return a look at a database beside whoever works there, without its lease."""
        ...

    def clean(self, url: str, *, holder: str, export: Callable[[list[dict[str, Any]]], None]) -> Cleaned:
        """Remove Segue's schema from a database, under its lease, after `export` has kept the history's rows.

        Slots and publications that changes have left behind go too. Raises Busy while anything runs, Blocked when
        something still uses the schema.
        """
        ...


class StepRun(Protocol):
    """What a step gets to work with."""

    params: Any
    target: Target
    database: Database
    direction: str

    @property
    def patience(self) -> Patience:
        """Return how long locks may be tried for, and how long is left for the work."""
        ...

    def key(self, part: int, direction: str | None = None) -> EffectKey:
        """Name a part of this step."""
        ...

    def do(self, part: int, statements: Sequence[Statement]) -> None:
        """Bring about one effect of the step, once, however often it is called."""
        ...

    def settle(self, part: int, statements: Sequence[Statement]) -> None:
        """Bring an effect of the way forward that was begun to done or to not there, whichever is nearer."""
        ...

    def boundary(self) -> None:
        """Stop here when a pause, a cancel or the user's Ctrl-C asks for it: nothing is half-done."""
        ...

    def began(self) -> datetime:
        """Return when the step began for the first time, in whichever process."""
        ...

    def resolved(self) -> Observed | None:
        """Return what a person says of an effect that cannot be told, DONE or NOT_DONE; None when nobody was asked."""
        ...

    def keep(self, **detail: Any) -> None:
        """Keep facts about this run of the step in its record."""
        ...

    def approval(self) -> Approved | None:
        """Return the approval of this step that counts now, None when there is none."""
        ...

    def pace(self) -> Pace:
        """Return how fast data work may go now."""
        ...

    def slots(self, wanted: int) -> int:
        """Ask for copy slots of other workers to help with this step; return how many labour here, in this process.

        With nobody to ask, all of `wanted` labour here.
        """
        ...

    def note(self, message: str, **detail: Any) -> None:
        """Say something to whoever watches, and to the execution's log."""
        ...

    def recording(self, work: ChunkedWork, table: str, settings: Mapping[str, Any]) -> JobRecord:
        """Open the store's record of chunked work."""
        ...

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
        """Open the store's record of an online change of `table`.

        `spec` is the step as the plan says it; without a `kind` its ALTER TABLE says what it does, to which column.
        """
        ...

    def moves(self) -> Moves:
        """Return the moves to and from the environment that this runs in."""
        ...

    def tuned(self) -> Mapping[str, Any]:
        """Return what people have set for this execution while it runs, as of a second ago at most."""
        ...


class JobRecord(Protocol):
    """The store's record of chunked work: a data migration job and its batches."""

    def note(self, batches: Sequence[Batch]) -> None:
        """Record how batches stand by now; written to the store at most once a second."""
        ...

    def finish(self) -> None:
        """Write everything and close the record as completed."""
        ...

    def stop(self, error: BaseException) -> None:
        """Write everything and say why the work stopped: paused, cancelled or failed."""
        ...


class StepKind(Protocol):
    """A kind of step: how its fields look, and the same questions for every kind."""

    kind: str
    step_type: str
    #: Whether a run changes the target.
    effects: bool
    #: Whether steps of this kind may run beside others that they do not need.
    parallel: bool
    Params: Any

    def prepare(self, params: Any, folder: Path | None) -> Any:
        """Return the fields with the content of the files that they name, so that the plan holds all of it.

        `folder` is the plan file's; None for a plan that has been prepared, or came from no file. Raises InvalidInput.
        """
        ...

    def statements(self, params: Any, database: Database) -> list[Statement]:
        """Return the statements that a run will send, with their predicted impact; raises InvalidInput."""
        ...

    def reverse(self, params: Any, database: Database) -> list[Statement]:
        """Return the statements that an undo will send."""
        ...

    def irreversible(self, params: Any) -> str | None:
        """Return why the step cannot be undone, None when it can."""
        ...

    def problems(self, params: Any, database: Database) -> list[str]:
        """Return what is wrong with the fields beyond their types."""
        ...

    def check(self, run: StepRun) -> None:
        """Raise when the step cannot start now."""
        ...

    def run(self, run: StepRun) -> None:
        """Do it; every effect goes through `run.do` or a recorded chunk."""
        ...

    def observe(self, run: StepRun) -> Observed:
        """Look at the target, whether the step is done."""
        ...

    def undo(self, run: StepRun) -> None:
        """Put it back, whatever part of it was done."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that was discovered: databases and step kinds by name."""

    databases: Mapping[str, Database]
    steps: Mapping[str, StepKind]

    def database(self, url: str) -> Database:
        """Return the database that a URL is of. PostgreSQL is the only kind there is; its schemes are all URLs'."""
        return self.databases["postgresql"]
