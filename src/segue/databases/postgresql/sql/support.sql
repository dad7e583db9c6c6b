-- What Segue keeps in a target: who may work on it, what was done to it, how far chunked work came.
create schema if not exists segue;

comment on schema segue is 'Segue: lease, history and progress of migrations (support 1)';

-- Two rows, so that a long statement that holds the fence row shared does not stop the heartbeat.
create table if not exists segue.lease (
    role text primary key check (role in ('fence', 'heartbeat')),
    execution text not null,
    fence bigint not null,
    holder text not null,
    at timestamptz not null default clock_timestamp()
);

create table if not exists segue.history (
    id bigint generated always as identity primary key,
    execution text not null,
    plan text not null,
    plan_hash text not null,
    step text not null,
    direction text not null check (direction in ('forward', 'backward')),
    part integer not null,
    state text not null check (state in ('begun', 'done')),
    fence bigint not null,
    statement text,
    detail jsonb not null default '{}',
    fingerprint_before text,
    fingerprint_after text,
    begun_at timestamptz not null default clock_timestamp(),
    done_at timestamptz,
    unique (execution, step, direction, part)
);

create table if not exists segue.chunk (
    execution text not null,
    step text not null,
    direction text not null check (direction in ('forward', 'backward')),
    number integer not null,
    after text[],
    until text[],
    lane smallint not null default 0,
    lanes smallint not null default 1,
    keys bigint not null,
    rows bigint not null,
    milliseconds integer not null,
    worker text not null,
    fence bigint not null,
    at timestamptz not null default clock_timestamp(),
    primary key (execution, step, direction, number)
);

-- The schema as Segue last left it, object by object, so that drift can be named and not only noticed.
create table if not exists segue.schema_state (
    schema text primary key,
    fingerprint text not null,
    objects jsonb not null,
    execution text,
    at timestamptz not null default clock_timestamp()
);
