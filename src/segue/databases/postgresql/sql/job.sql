-- Rows that a data job could not write, each by its key in the source. Made when the first job begins.
create table if not exists segue.rejected (
    id bigint generated always as identity primary key,
    execution text not null,
    step text not null,
    batch integer,
    key text[] not null,
    error_type text not null check (error_type in ('validation', 'transformation', 'constraint', 'timeout')),
    sqlstate text not null default '',
    message text not null,
    stack text,
    source jsonb,
    target jsonb,
    -- The job stopped there: its batch was rolled back, and is done anew.
    stopped boolean not null default false,
    occurred_at timestamptz not null default clock_timestamp(),
    -- Written: the job itself did so, when it went on after it had stopped there.
    resolution text check (resolution in ('retried', 'corrected', 'skipped', 'written')),
    note text,
    resolved_by text,
    resolved_at timestamptz,
    unique (execution, step, key)
);
