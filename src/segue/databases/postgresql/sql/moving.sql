-- What a move keeps in each of its databases. {schema}: the move's own; other braces are not to be used here.
create schema if not exists {schema};
grant usage on schema {schema} to public;

create table {schema}.state (
    one boolean primary key default true check (one),
    open boolean not null,
    epoch bigint not null,
    both_ways boolean not null,
    -- Which database the other side is: a move of the same name to another one is another move.
    other text not null
);
create table {schema}.member (number int primary key, name text not null, signature text not null);
create table {schema}.sequence (
    name text primary key,
    increment bigint not null,
    minimum bigint not null,
    maximum bigint not null,
    cycle boolean not null,
    start bigint not null,
    -- Where this side is closed: values beyond it belong to the other side.
    sealed_at bigint
);
-- Published with the moved tables: what was committed before a marker is on the other side once the marker is.
create table {schema}.marker (
    token uuid primary key default gen_random_uuid(),
    side text not null,
    at timestamptz not null default clock_timestamp()
);

-- Rows that are replicated fire no statement triggers; a replicated TRUNCATE does, and passes. Whether a session
-- replicates, only a superuser may ask by function; only a superuser or a subscription has the other sign.
create function {schema}.fence() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'TRUNCATE' then
        begin
            if pg_replication_origin_session_is_setup() then
                return null;
            end if;
        exception when insufficient_privilege then
            if current_setting('session_replication_role') = 'replica' then
                return null;
            end if;
        end;
    end if;
    raise exception using
        errcode = '40001',
        constraint = 'segue_fence',
        schema = tg_table_schema,
        table = tg_table_name,
        message = format('table %I is written to in another database now', tg_table_name),
        hint = 'Connect to the database that the table has moved to, and try the transaction again';
end
$$;
