"""The words of every column that holds one of a few words but has no life of its own."""

from __future__ import annotations

from enum import StrEnum


class MigrationPhase(StrEnum):
    """When a plan runs, relative to the release of the application."""

    PRE = "pre-migration"
    MIGRATION = "migration"
    POST = "post-migration"


class Strategy(StrEnum):
    """How a plan keeps the application working."""

    BLUE_GREEN = "blue-green"
    ROLLING = "rolling"
    MAINTENANCE_WINDOW = "maintenance-window"
    ONLINE = "online"


class Level(StrEnum):
    """How complex, risky, severe or busy something is."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class StepType(StrEnum):
    """What a step is for; it follows from the step's kind."""

    SCHEMA_CHANGE = "schema-change"
    DATA_MIGRATION = "data-migration"
    VALIDATION = "validation"
    ROLLBACK = "rollback"


class EnvironmentType(StrEnum):
    """What an environment is for."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"
    TEST = "test"


class DataSize(StrEnum):
    """How much data an environment holds."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"
    XLARGE = "xlarge"


class Mode(StrEnum):
    """Who starts executions: a person, a pipeline, or a clock."""

    MANUAL = "manual"
    AUTOMATED = "automated"
    SCHEDULED = "scheduled"


class Direction(StrEnum):
    """Which way an execution or a step goes."""

    FORWARD = "forward"
    BACKWARD = "backward"


class Colour(StrEnum):
    """The two sides of a blue-green deployment."""

    BLUE = "blue"
    GREEN = "green"


class SwitchStrategy(StrEnum):
    """How traffic moves to the other side."""

    INSTANT = "instant"
    GRADUAL = "gradual"
    CANARY = "canary"


class EvolutionType(StrEnum):
    """What a new version of a schema means for those who use the old one."""

    ADDITIVE = "additive"
    BREAKING = "breaking"
    NEUTRAL = "neutral"


class OnlineStrategy(StrEnum):
    """How an online schema change is done."""

    GHOST = "ghost"
    PT_ONLINE_SCHEMA_CHANGE = "pt-online-schema-change"
    NATIVE_ONLINE = "native-online"
    SHADOW_TABLE = "shadow-table"


class ChangeType(StrEnum):
    """What an online change does to a table, lightest first; a record may have other words."""

    STORAGE = "storage"
    ALTER_TABLE = "alter-table"
    DROP_CONSTRAINT = "drop-constraint"
    ADD_CONSTRAINT = "add-constraint"
    ADD_INDEX = "add-index"
    ADD_COLUMN = "add-column"
    DROP_COLUMN = "drop-column"
    REORDER_COLUMNS = "reorder-columns"
    MODIFY_COLUMN = "modify-column"
    PARTITION = "partition"
    CHANGE_KEY = "change-key"


class ImpactLevel(StrEnum):
    """How much the application feels an online change."""

    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class ShadowPurpose(StrEnum):
    """What a shadow table is for."""

    SCHEMA_CHANGE = "schema-change"
    DATA_MIGRATION = "data-migration"
    VALIDATION = "validation"


class RowErrorType(StrEnum):
    """Why a row could not be migrated."""

    VALIDATION = "validation"
    TRANSFORMATION = "transformation"
    CONSTRAINT = "constraint"
    TIMEOUT = "timeout"


class ElementType(StrEnum):
    """What is deprecated."""

    TABLE = "table"
    COLUMN = "column"
    INDEX = "index"
    CONSTRAINT = "constraint"


class RollbackType(StrEnum):
    """How a plan is taken back."""

    IMMEDIATE = "immediate"
    PROGRESSIVE = "progressive"
    POINT_IN_TIME = "point-in-time"


class BackupStrategy(StrEnum):
    """What is backed up before a plan runs."""

    FULL = "full"
    INCREMENTAL = "incremental"
    DIFFERENTIAL = "differential"
    NONE = "none"


class DataLossRisk(StrEnum):
    """How much a rollback may lose."""

    NONE = "none"
    MINIMAL = "minimal"
    MODERATE = "moderate"
    HIGH = "high"


class ProcedureType(StrEnum):
    """What one step of a rollback is."""

    SQL = "sql"
    SCRIPT = "script"
    MANUAL = "manual"
    VERIFICATION = "verification"


class RecoveryType(StrEnum):
    """How much a point-in-time recovery brings back."""

    FULL = "full"
    PARTIAL = "partial"
    SELECTIVE = "selective"


class HealthCheckType(StrEnum):
    """What a health check watches."""

    INTEGRITY = "integrity"
    PERFORMANCE = "performance"
    CONSISTENCY = "consistency"
    AVAILABILITY = "availability"


class Frequency(StrEnum):
    """How often a health check runs."""

    CONTINUOUS = "continuous"
    HOURLY = "hourly"
    DAILY = "daily"
    ON_DEMAND = "on-demand"


class Severity(StrEnum):
    """How bad a health check's failure is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class HealthOutcome(StrEnum):
    """What one health check found."""

    PASSED = "passed"
    FAILED = "failed"
    WARNING = "warning"


class IncidentCategory(StrEnum):
    """What kind of harm an incident is."""

    DATA_LOSS = "data-loss"
    PERFORMANCE = "performance"
    AVAILABILITY = "availability"
    INTEGRITY = "integrity"


class IncidentImpact(StrEnum):
    """Who or what an incident hurts."""

    USERS_AFFECTED = "users-affected"
    DATA_CORRUPTED = "data-corrupted"
    SYSTEM_DOWN = "system-down"


class Detector(StrEnum):
    """Who noticed an incident."""

    SYSTEM = "system"
    USER = "user"
    MONITORING = "monitoring"


class IncidentActionType(StrEnum):
    """What an action on an incident is for."""

    INVESTIGATION = "investigation"
    MITIGATION = "mitigation"
    COMMUNICATION = "communication"
    ROLLBACK = "rollback"


class DataSetSize(StrEnum):
    """How much data a test suite runs on."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"
    PRODUCTION_LIKE = "production-like"


class SuiteTestCategory(StrEnum):
    """What a test of a suite is about."""

    FUNCTIONAL = "functional"
    PERFORMANCE = "performance"
    INTEGRITY = "integrity"
    ROLLBACK = "rollback"
    SECURITY = "security"


class SuiteTestOutcome(StrEnum):
    """How one test of a suite ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    ERROR = "error"


class LogLevel(StrEnum):
    """How much a line of an execution's log matters."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class WorkQueue(StrEnum):
    """What a worker takes: whole executions, or a share of one's rows."""

    EXECUTIONS = "executions"
    SLOTS = "slots"
