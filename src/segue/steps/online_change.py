"""A step that changes tables of any size while the application goes on reading and writing them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field, model_validator

from segue.errors import InvalidInput
from segue.model.online import WAL_LIMIT, ChangeSpec, TableChange
from segue.model.plans import PlanModel, Seconds, Size, StepFields
from segue.model.vocabulary import OnlineStrategy
from segue.online.workflow import WHOLE, Manner, Workflow
from segue.ports import FORWARD, Database, Observed, StepRun

if TYPE_CHECKING:
    from segue.model.impact import Statement

_BIGGEST_FILE = 1_000_000

Table = TypeVar("Table", bound="OneTable")


class Chunk(PlanModel):
    """How large a piece of the copy is: it follows the time it takes."""

    seconds: Seconds = Field(default=0.3, gt=0, le=0.6, description="The time a piece should take.")
    max: int = Field(default=50_000, ge=1, description="The most rows in a piece.")


class OneTable(PlanModel):
    """What becomes of one table."""

    table: str = Field(min_length=1, description="The table, as SQL writes it.")
    alter: list[str] = Field(
        default_factory=list, description="What ALTER TABLE says after the table's name; one or several, one copy."
    )
    columns: list[str] = Field(
        default_factory=list, description="Columns in the order that they are to have; others follow."
    )
    partition_by: str | None = Field(default=None, description="Such as `RANGE (placed_at)`.")
    partitions: str | None = Field(
        default=None, description="SQL that creates the partitions, or the name of a file with it."
    )
    back: dict[str, str] = Field(
        default_factory=dict,
        description="SQL expression by column of the old table, over the new one's, where a cast does not lead back.",
    )


class OnlineChangeParams(OneTable, StepFields):
    """Change a table, or several at one instant, by a shadow that is kept current until it takes the table's place."""

    kind: Literal["online-change"] = "online-change"
    table: str = Field(default="", description="The table, as SQL writes it.")
    tables: list[OneTable] = Field(default_factory=list, description="Several tables, swapped at one instant.")
    strategy: Literal["auto", "native-online", "shadow-table", "ghost", "pt-online-schema-change"] = Field(
        default="auto", description="`auto` takes the server's own online form where there is one, else a shadow table."
    )
    keys: bool = Field(default=True, description="Take columns along whose foreign keys refer to a changed key.")
    workers: int | None = Field(
        default=None,
        ge=1,
        le=32,
        description="Sessions that copy and compare at the same time; two, or one while a latency budget is to hold.",
    )
    chunk: Chunk = Field(default_factory=Chunk)
    cutover: Literal["automatic", "postponed"] = Field(
        default="automatic", description="`postponed`: swap only once `segue change cutover` says so."
    )
    reversible: bool = Field(default=True, description="Keep the old table current after the swap, for the way back.")
    retention_days: int = Field(default=7, ge=0, le=3650, description="For how long.")
    cancel_blockers: list[str] = Field(
        default_factory=list, description="Application names whose statements may be cancelled for the swap."
    )
    wal_limit: Size = Field(
        default=WAL_LIMIT, description="What `ghost` may keep back of the server's log before it gives its slot up."
    )
    lock_timeout: Seconds = Field(default=600.0, description="How long to try for the locks of the swap.")
    timeout: Seconds = Field(default=30 * 86400.0, description="The longest the step may take.")

    @model_validator(mode="after")
    def _one_form(self) -> OnlineChangeParams:
        if bool(self.table) == bool(self.tables):
            raise ValueError("an online change names its `table`, or several `tables`")
        if self.tables and (self.alter or self.columns or self.partition_by or self.partitions or self.back):
            raise ValueError("with `tables`, what becomes of each stands there")
        for one in self.every():
            if not (one.alter or one.columns or one.partition_by):
                raise ValueError(
                    f'nothing is to change in "{one.table}": `alter`, `columns` or `partition_by` say what'
                )
            if one.partition_by and not one.partitions:
                raise ValueError("`partition_by` needs `partitions`")
        return self

    def every(self) -> list[OneTable]:
        """Return every table."""
        return self.tables or [self]


class OnlineChangeStep:
    """See `segue.ports.StepKind`."""

    kind = "online-change"
    step_type = "schema-change"
    effects = True
    parallel = False
    Params = OnlineChangeParams

    def prepare(self, params: OnlineChangeParams, folder: Path | None) -> OnlineChangeParams:
        """Return the fields with the partitions' file in them, where one is named."""
        if folder is None:
            return params
        if params.tables:
            return params.model_copy(update={"tables": [_with_file(one, folder) for one in params.tables]})
        return _with_file(params, folder)

    def statements(self, params: OnlineChangeParams, database: Database) -> list[Statement]:
        """Return the locks that are taken: for the triggers, and for the swap."""
        found: list[Statement] = []
        for one in params.every():
            found += database.statements(
                f"LOCK TABLE {one.table} IN SHARE ROW EXCLUSIVE MODE; LOCK TABLE {one.table} IN ACCESS EXCLUSIVE MODE"
            )
        return found

    def reverse(self, params: OnlineChangeParams, database: Database) -> list[Statement]:
        """Return the lock of the swap back."""
        return [
            statement
            for one in params.every()
            for statement in database.statements(f"LOCK TABLE {one.table} IN ACCESS EXCLUSIVE MODE")
        ]

    def change(self, params: OnlineChangeParams) -> ChangeSpec:
        """Return what is asked of the database."""
        return spec_of(params)

    def irreversible(self, params: OnlineChangeParams) -> str | None:
        """Return why the step cannot be undone."""
        if params.irreversible:
            return params.irreversible
        return None if params.reversible else "the old table is dropped right after the swap (`reversible: false`)"

    def problems(self, params: OnlineChangeParams, database: Database) -> list[str]:
        """Return what is wrong with the fields beyond their types; a syntax error is raised with its place."""
        found = []
        if params.strategy == OnlineStrategy.PT_ONLINE_SCHEMA_CHANGE.value:
            found.append(
                "pt-online-schema-change mirrors every write by triggers; on PostgreSQL that was measured 1.6 to 2.65 "
                "times slower, and its index builds stop writers: use `auto`, `shadow-table` or `ghost`"
            )
        for one in params.every():
            for commands in one.alter:
                parsed = database.statements(f"ALTER TABLE {one.table}\n{commands}")
                if len(parsed) != 1:
                    found.append("`alter` holds what ALTER TABLE says after the table's name, and one statement each")
            if one.partitions is not None:
                try:
                    database.statements(one.partitions)
                except InvalidInput as error:
                    found.append(f"`partitions`: {error.message}")
        return found

    def check(self, run: StepRun) -> None:
        """Leave it to the preparation, which finds what is wrong before anything is written."""

    def run(self, run: StepRun) -> None:
        """Change the tables."""
        self._workflow(run).forward()

    def observe(self, run: StepRun) -> Observed:
        """Look whether the swap took place and everything after it is done."""
        return run.target.observe(run.key(WHOLE, FORWARD))

    def undo(self, run: StepRun) -> None:
        """Swap back, or remove what was made before a swap."""
        self._workflow(run).backward()

    def _workflow(self, run: StepRun) -> Workflow:
        params: OnlineChangeParams = run.params
        spec = spec_of(params)
        manner = Manner(
            seconds=params.chunk.seconds,
            largest=params.chunk.max,
            postponed=params.cutover == "postponed",
            reversible=params.reversible,
            retention_days=params.retention_days,
            cancel_blockers=tuple(params.cancel_blockers),
            words=params.model_dump(mode="json", exclude_defaults=True),
        )
        return Workflow(run, spec, manner)


def spec_of(params: OnlineChangeParams) -> ChangeSpec:
    """Return what is asked of the database."""
    return ChangeSpec(
        tables=tuple(
            TableChange(
                one.table,
                tuple(one.alter),
                tuple(one.columns),
                one.partition_by,
                one.partitions,
                dict(one.back),
            )
            for one in params.every()
        ),
        strategy=params.strategy,
        keys=params.keys,
        reversible=params.reversible,
        workers=params.workers,
        chunk_seconds=params.chunk.seconds,
        chunk_keys=params.chunk.max,
        wal_limit=params.wal_limit,
    )


def _with_file(one: Table, folder: Path) -> Table:
    """Return a table's fields with the content of the file that `partitions` names, if it names one."""
    text = one.partitions
    if text is None or "\n" in text or not text.strip().endswith(".sql"):
        return one
    path = folder / text.strip()
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidInput(f'the file "{text}" of `partitions` is not in the plan file\'s folder')
    try:
        if path.stat().st_size > _BIGGEST_FILE:
            raise InvalidInput(f'the file "{text}" of `partitions` is larger than a plan may hold')
        return one.model_copy(update={"partitions": path.read_text(encoding="utf-8")})
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f'the file "{text}" of `partitions` cannot be read: {error}',
            hint="give its name as it is seen from the plan file's folder",
        ) from error


STEP: Any = OnlineChangeStep()
