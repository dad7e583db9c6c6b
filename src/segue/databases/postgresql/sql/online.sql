-- What Segue keeps in a target about online schema changes. Made when the first of them begins.

-- One row per change. `phase` is what is to be done next; it moves on in the transaction of what was done.
create table if not exists segue.change (
    id text primary key,
    execution text not null,
    step text not null,
    plan_hash text not null,
    phase text not null,
    strategy text not null,
    blueprint jsonb not null,
    -- How often the copy has begun: a truncated source begins it anew.
    round integer not null default 1,
    -- What is done within a phase (indexes built, members copied), by name.
    done jsonb not null default '{}',
    detail jsonb not null default '{}',
    fence bigint not null,
    created_at timestamptz not null default clock_timestamp(),
    swapped_at timestamptz,
    ended_at timestamptz,
    unique (execution, step)
);

-- Rows that the destination's rules refuse, each by its key in the source.
create table if not exists segue.conflict (
    change text not null references segue.change (id) on delete cascade,
    member integer not null,
    direction text not null check (direction in ('forward', 'backward')),
    key text[] not null,
    sqlstate text not null,
    message text not null,
    rule text not null default '',
    row jsonb,
    -- Values of the destination's that the source has no column for: the row gets them back when it fits.
    kept jsonb,
    seen_at timestamptz not null default clock_timestamp(),
    primary key (change, member, direction, key)
);

-- What was compared and found the same: one row per range and round, written right after the snapshot that compared.
create table if not exists segue.verified (
    change text not null references segue.change (id) on delete cascade,
    member integer not null,
    direction text not null check (direction in ('forward', 'backward')),
    round integer not null,
    number integer not null,
    after text[],
    until text[],
    rows_old bigint not null,
    rows_new bigint not null,
    digest_old numeric not null,
    digest_new numeric not null,
    -- Keys that were left out because they are in the log: they are compared when they have been brought up to date.
    skipped bigint not null default 0,
    repaired bigint not null default 0,
    snapshot text not null,
    milliseconds integer not null,
    at timestamptz not null default clock_timestamp(),
    primary key (change, member, direction, round, number)
);
