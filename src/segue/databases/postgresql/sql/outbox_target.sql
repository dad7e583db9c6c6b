-- What a service has heard from others. Once, in the service's database; a service may have both halves.
create schema if not exists segue_outbox;

-- How far a consumer is, written in the transaction of what it was given. Everything that `last` shows has arrived; of
-- what `until` shows beyond that, the events up to `after`.
create table if not exists segue_outbox.subscription (
    name text primary key,
    origin uuid not null,
    topics text[] not null,
    handler text,
    last pg_snapshot not null,
    until pg_snapshot,
    after bigint not null default 0,
    readings bigint not null default 0,
    received bigint not null default 0,
    received_at timestamptz
) with (fillfactor = 50);

create table if not exists segue_outbox.inbox (
    consumer text not null,
    id bigint not null,
    topic text not null,
    key text not null,
    payload jsonb not null,
    written_at timestamptz not null,
    received_at timestamptz not null default clock_timestamp(),
    primary key (consumer, id)
);

-- Events that the handler refused, and whatever came after them for the same key.
create table if not exists segue_outbox.parked (
    consumer text not null,
    id bigint not null,
    topic text not null,
    key text not null,
    payload jsonb not null,
    written_at timestamptz not null,
    sqlstate text,
    error text,
    tries integer not null default 0,
    parked_at timestamptz not null default clock_timestamp(),
    primary key (consumer, id)
);
create index if not exists parked_key on segue_outbox.parked (consumer, key, id);
