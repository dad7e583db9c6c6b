-- What a service writes in its own transactions for other services to hear of. Once, in the service's database.
create schema segue_outbox;

create table segue_outbox.event (
    id bigint generated always as identity primary key,
    -- Of the transaction, for what a snapshot does not show yet: ids are drawn in another order than they are committed.
    xid xid8 not null default pg_current_xact_id(),
    topic text not null check (topic ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    key text not null,
    payload jsonb not null,
    written_at timestamptz not null default clock_timestamp()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000);
create index event_xid on segue_outbox.event (xid);

-- `home`: the server and database whose transaction numbers these are. `purged`: events below are gone.
create table segue_outbox.origin (
    one boolean primary key default true check (one),
    id uuid not null default gen_random_uuid(),
    home text not null,
    purged xid8 not null default '0'
);

-- `seen`: what the consumer has for certain. `readings` grows before each delivery: a database that was set back to an
-- earlier moment has fewer than its consumer knows of. `base`: what was purged before it began, which it does not miss.
create table segue_outbox.consumer (
    name text primary key,
    topics text[] not null,
    seen pg_snapshot not null,
    base xid8 not null,
    readings bigint not null default 0,
    confirmed_at timestamptz
) with (fillfactor = 50);

create function segue_outbox.publish(topic text, key text, payload jsonb) returns bigint
language sql security definer set search_path = pg_catalog, pg_temp
begin atomic
    insert into segue_outbox.event (topic, key, payload)
    values (publish.topic, publish.key, publish.payload) returning id;
end;

revoke all on function segue_outbox.publish(text, text, jsonb) from public;
comment on function segue_outbox.publish is
    'publish(topic, key, payload): tell other services, if this transaction is committed; events of one key stay in order';
