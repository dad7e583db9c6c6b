-- What a move between different shapes keeps besides, in each of its databases. {schema}: the move's own.
-- Safe to run again.
create table if not exists {schema}.position (
    one boolean primary key default true check (one),
    -- The transaction that carries rows over now: visible to itself alone, so nobody else passes the fence.
    xact xid8,
    -- Of the other side, as of which touched keys were carried over last.
    snapshot pg_snapshot,
    at timestamptz,
    -- When nothing was left to carry over.
    level_at timestamptz,
    -- How many turns this side has given and taken. What one has given the other has taken, or takes again next: else
    -- one of them was set back.
    sent bigint not null default 0,
    taken bigint not null default 0
);
insert into {schema}.position default values on conflict do nothing;
-- Locked by whoever carries rows over from this side: one at a time.
create table if not exists {schema}.turn ();

create or replace function {schema}.own() returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as 'select exists (select from {schema}.position where xact = pg_catalog.pg_current_xact_id_if_assigned())';

create or replace function {schema}.refuse(relation_schema text, relation text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception using
        errcode = '40001',
        constraint = 'segue_fence',
        schema = relation_schema,
        table = relation,
        message = format('table %I is written to in another database now', relation),
        hint = 'Connect to the database that the table has moved to, and try the transaction again';
end
$$;

create or replace function {schema}.fence() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if not {schema}.own() then
        perform {schema}.refuse(tg_table_schema, tg_table_name);
    end if;
    return null;
end
$$;
