"""A migration plan as a value: what a plan file says, field by field. One definition for file, schema and docs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from segue.model.quantities import octets, seconds
from segue.model.throttling import ThrottleSettings

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
VERSION_PATTERN = r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$"


def _sensible(value: float) -> float:
    # The store counts seconds and minutes in 32 bits.
    if value > 10 * 365 * 86400:
        raise ValueError("a duration is at most ten years")
    return value


# The whole schema is given: beside pydantic's own `"type": "number"` no editor would accept a text.
Seconds = Annotated[
    float,
    BeforeValidator(seconds),
    AfterValidator(_sensible),
    WithJsonSchema({"anyOf": [{"type": "string", "examples": ["30s", "5m", "1h 30m"]}, {"type": "number"}]}),
]
Size = Annotated[
    int,
    BeforeValidator(octets),
    WithJsonSchema({"anyOf": [{"type": "string", "examples": ["64MB", "8GiB"]}, {"type": "integer"}]}),
]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class PlanModel(BaseModel):
    """What all parts of a plan share: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, str_strip_whitespace=False)


class Expectation(PlanModel):
    """A query and the result it must give: exactly one of `scalar`, `row`, `rows`.

    Numbers may differ by `tolerance`, a fraction of the expected value (0.05 is 5 %).
    """

    query: str = Field(min_length=1, description="A SELECT that runs read-only on the target.")
    scalar: Any = Field(default=None, description="The single value expected.")
    row: list[Any] | None = Field(default=None, description="The single row expected, as a list.")
    rows: list[list[Any]] | None = Field(default=None, description="All rows expected, in order, each a list.")
    tolerance: float = Field(default=0.0, ge=0, le=1, description="Allowed relative difference of numbers.")

    @model_validator(mode="after")
    def _one_form(self) -> Expectation:
        given = [name for name in ("scalar", "row", "rows") if name in self.model_fields_set]
        if len(given) != 1:
            raise ValueError("an expected result is exactly one of scalar, row, rows")
        return self


class StepFields(PlanModel):
    """What every step has, whatever its kind. A step kind's own fields stand beside these in the file."""

    name: Name = Field(description="The step's name, unique in the plan; other steps `needs` it by this name.")
    kind: str
    description: str = Field(default="", description="What the step is for, for people.")
    stage: str = Field(default="", max_length=63, description="The stage of the migration it belongs to, for people.")
    needs: list[Name] = Field(default_factory=list, description="Steps that must be complete before this one.")
    blocking: bool = Field(default=True, description="Whether a failure stops the migration; otherwise it warns.")
    timeout: Seconds = Field(default=300.0, description="The longest the step may take.")
    retries: int = Field(default=0, ge=0, le=100, description="How often a failed attempt is repeated.")
    backoff: Seconds = Field(default=1.0, description="Wait before the first retry; doubles with each.")
    approval: bool = Field(default=False, description="Whether a person must approve this step before it runs.")
    check_after: Expectation | None = Field(
        default=None, alias="validate", description="A query whose result proves that the step did its work."
    )
    irreversible: str | None = Field(
        default=None, description="Why the step cannot be undone: a point of no return, said in words."
    )


class Batch(PlanModel):
    """How large a batch is: it starts with `size` keys and then follows the time."""

    size: int = Field(default=1000, ge=1, description="Keys in the first batch.")
    target: Seconds = Field(default=0.3, gt=0, le=0.6, description="The time a batch should take.")
    max: int = Field(default=50_000, ge=1, description="The most keys in a batch.")


class Rollback(PlanModel):
    """How the plan is taken back."""

    description: str = Field(default="Each step's reverse, in reverse order.", description="For people.")
    on_failure: Literal["stop", "rollback"] = Field(
        default="stop", description="What happens when a blocking step fails: stop there, or undo everything."
    )
    window: Seconds | None = Field(default=None, description="How long after completion a rollback is possible.")


class Fence(PlanModel):
    """How a maintenance window keeps the application out: by triggers on its tables, or by commands of yours.

    Triggers refuse writes; reads go on. Either `tables` or both `close` and `open`.
    """

    tables: list[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None,
        min_length=1,
        description="Tables whose writes are refused, with their partitions; all of `target_schema` by default.",
    )
    close: list[str] | None = Field(
        default=None, min_length=1, description="A command, word by word, that keeps the application out."
    )
    open: list[str] | None = Field(
        default=None, min_length=1, description="A command, word by word, that lets the application in again."
    )
    timeout: Seconds = Field(default=60.0, description="The longest that each of the commands may take.")
    lock_timeout: Seconds = Field(
        default=60.0, description="How long to wait for transactions of the application that have begun to write."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Fence:
        if (self.close is None) != (self.open is None):
            raise ValueError("a fence by commands needs both `close` and `open`")
        if self.close is not None and self.tables is not None:
            raise ValueError("a fence is either by triggers on `tables` or by the commands `close` and `open`")
        return self


class PlanFields(PlanModel):
    """What every plan has; `steps` is added by the reader, which knows the step kinds."""

    plan: Name = Field(description="The plan's name, unique in the store.")
    version: Annotated[str, Field(pattern=VERSION_PATTERN)] = Field(description="Semantic version of this plan.")
    description: str = Field(min_length=1, description="What the migration is for.")
    target_schema: str = Field(default="public", description="The database schema that the plan changes.")
    phase: Literal["pre-migration", "migration", "post-migration"] = "migration"
    strategy: Literal["online", "rolling", "blue-green", "maintenance-window"] = "online"
    maintenance_window: int | None = Field(
        default=None,
        ge=1,
        le=525_600,
        description="With the strategy `maintenance-window`: for how many minutes at most the application waits.",
    )
    fence: Fence | None = Field(
        default=None, description="How the maintenance window keeps the application out; by triggers by default."
    )
    prerequisites: list[str] = Field(default_factory=list, description="What must be true beforehand, for people.")
    contacts: list[str] = Field(default_factory=list, description="Who is told how the migration goes, for people.")
    depends_on: list[Name] = Field(
        default_factory=list, description="Plans that must be completed in the environment first."
    )
    rollback: Rollback = Field(default_factory=Rollback)
    throttle: ThrottleSettings | None = Field(
        default=None, description="How politely the plan's data work goes; see the page on throttling."
    )
