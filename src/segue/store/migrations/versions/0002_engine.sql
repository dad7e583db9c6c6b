-- segue: ignore-file add-foreign-key reason="a row for each execution: the table is small, and whoever writes to it tries again"
-- segue: ignore-file add-check reason="a row for each execution: the table is small, and whoever writes to it tries again"
-- segue: ignore-file lock-without-timeout reason="a row for each execution: the table is small, and whoever writes to it tries again"
-- Every column that is added is null or has a constant default: nothing is rewritten.
ALTER TABLE segue_store.migration_executions
    ADD COLUMN handed_over BOOLEAN DEFAULT false NOT NULL,
    ADD COLUMN waiting_for JSONB,
    ADD COLUMN due_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN after_execution TEXT,
    ADD COLUMN options JSONB DEFAULT '{}'::jsonb NOT NULL,
    ADD COLUMN tuning JSONB DEFAULT '{}'::jsonb NOT NULL,
    ADD COLUMN assessment JSONB,
    ADD COLUMN fenced_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN fenced_until TIMESTAMP WITH TIME ZONE,
    ADD CONSTRAINT migration_executions_after_execution_fkey FOREIGN KEY (after_execution)
        REFERENCES segue_store.migration_executions (id) ON DELETE SET NULL ON UPDATE CASCADE;

COMMENT ON COLUMN segue_store.migration_executions.handed_over IS 'segue: workers drive it, whenever it is due';
COMMENT ON COLUMN segue_store.migration_executions.waiting_for IS 'segue: what a waiting execution waits for';
COMMENT ON COLUMN segue_store.migration_executions.due_at IS
    'segue: when to look at a waiting execution again; null: when what it waits for happens';
COMMENT ON COLUMN segue_store.migration_executions.after_execution IS
    'segue: execution that must be completed first';
COMMENT ON COLUMN segue_store.migration_executions.options IS 'segue: what was asked for when it was started';
COMMENT ON COLUMN segue_store.migration_executions.tuning IS
    'segue: limits of its data work, which may change while it runs';
COMMENT ON COLUMN segue_store.migration_executions.assessment IS
    'segue: what was measured and expected before it began';
COMMENT ON COLUMN segue_store.migration_executions.fenced_at IS 'segue: when the application was fenced off';
COMMENT ON COLUMN segue_store.migration_executions.fenced_until IS
    'segue: when it must be let in again, come what may';

ALTER TABLE segue_store.migration_plans ADD COLUMN assessment JSONB;

COMMENT ON COLUMN segue_store.migration_plans.assessment IS 'segue: the last assessment, by name of environment';

ALTER TABLE segue_store.environments
    ADD COLUMN identity JSONB,
    ADD COLUMN checked JSONB,
    ADD COLUMN max_slots INTEGER;

COMMENT ON COLUMN segue_store.environments.identity IS
    'segue: which server and database the URL led to: system identifier, oid, name';
COMMENT ON COLUMN segue_store.environments.checked IS
    'segue: what the last check found, and the replicas to expect';
COMMENT ON COLUMN segue_store.environments.max_slots IS 'segue: most copy slots at a time; null: no limit';

ALTER TABLE segue_store.workers ADD COLUMN doing JSONB DEFAULT '[]'::jsonb NOT NULL;

-- The new words hold for the old rows too: the check allows more than before, and is quick to make again.
ALTER TABLE segue_store.migration_step_runs
    DROP CONSTRAINT migration_step_runs_status_check,
    ADD CONSTRAINT migration_step_runs_status_check CHECK ("status" IN ('pending', 'running', 'completed', 'failed', 'skipped', 'warned', 'undone', 'waiting'));

CREATE TABLE segue_store.limits (
    name TEXT NOT NULL,
    most INTEGER NOT NULL,
    set_by TEXT NOT NULL,
    set_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT limits_pkey PRIMARY KEY (name)
);
