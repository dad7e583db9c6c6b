-- What Segue keeps in a target: who may work on it, what was done to it, how far chunked work came.
create schema if not exists segue;

comment on schema segue is 'Segue: lease, history and progress of migrations (support 2)';

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

-- Since support 2. A chunk that was written before it is of no batch.
alter table segue.chunk add column if not exists batch integer;
create index if not exists chunk_batch on segue.chunk (execution, step, direction, batch);

-- Labourers in many processes number their chunks; the numbers only have to differ.
create sequence if not exists segue.chunk_number owned by segue.chunk.number;
select pg_catalog.setval('segue.chunk_number', greatest(max(c.number), max(s.last_value)))
from segue.chunk as c, segue.chunk_number as s
having max(c.number) is not null;

-- A range of chunked work that is offered to labourers. Its place in the index never changes, so that what happens to
-- it is written beside it; for that the pages have room.
create table if not exists segue.batch (
    execution text not null,
    step text not null,
    direction text not null check (direction in ('forward', 'backward')),
    number integer not null,
    after text[],
    until text[],
    lane smallint,
    lanes smallint not null default 1,
    keys bigint not null,
    shares bigint[] not null default '{}',
    size integer not null,
    state text not null default 'pending' check (state in ('pending', 'claimed', 'done')),
    owner text,
    token bigint not null default 0,
    fence bigint not null,
    retries integer not null default 0,
    written bigint not null default 0,
    rows bigint not null default 0,
    milliseconds bigint not null default 0,
    slowest integer not null default -1,
    slowest_keys bigint not null default 0,
    fits integer,
    failure jsonb,
    offered_at timestamptz not null default clock_timestamp(),
    claimed_at timestamptz,
    done_at timestamptz,
    primary key (execution, step, direction, number)
) with (fillfactor = 50);

-- What is worked on now, and how fast it may go; written by the driver, read by every labourer after each chunk.
create table if not exists segue.work (
    execution text not null,
    step text not null,
    direction text not null check (direction in ('forward', 'backward')),
    fence bigint not null,
    state text not null check (state in ('open', 'stopped', 'ended')),
    lowest integer not null,
    duty double precision not null default 1,
    workers integer,
    reason text not null default '',
    at timestamptz not null default clock_timestamp(),
    primary key (execution, step, direction)
) with (fillfactor = 50);

-- Who labours, with a sign of life; the batches of one that falls silent are given to others.
create table if not exists segue.labourer (
    execution text not null,
    step text not null,
    direction text not null check (direction in ('forward', 'backward')),
    owner text not null,
    fence bigint not null,
    joined_at timestamptz not null default clock_timestamp(),
    beat_at timestamptz not null default clock_timestamp(),
    primary key (execution, step, direction, owner)
) with (fillfactor = 50);

-- The schema as Segue last left it, object by object, so that drift can be named and not only noticed.
create table if not exists segue.schema_state (
    schema text primary key,
    fingerprint text not null,
    objects jsonb not null,
    execution text,
    at timestamptz not null default clock_timestamp()
);
