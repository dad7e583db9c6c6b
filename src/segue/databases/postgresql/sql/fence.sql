-- The application's fence: one row that says whether it is closed, and the function of the triggers that ask it.
create table if not exists segue.fence (
    one boolean primary key default true check (one),
    execution text not null,
    direction text not null check (direction in ('forward', 'backward')),
    state text not null check (state in ('armed', 'closing', 'closed', 'open')),
    window_id text not null,
    pass text not null,
    fence bigint not null,
    closed_at timestamptz,
    until timestamptz,
    opened_at timestamptz
);

-- Closing enables the triggers: a row alone would let through whoever still has an older snapshot. Opening is this row:
-- whoever still sees the older one is told to try again, which is the side to err on. So that nobody takes an earlier
-- window's row for this one's, a trigger has the window it is of as its argument, which no snapshot hides.
-- The application's roles may not read the row, so the function runs as its owner, with its names pinned.
create or replace function segue.fence_guard() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    gate segue.fence;
begin
    select * into gate from segue.fence where window_id = tg_argv[0];
    if gate.state = 'open' or gate.pass = current_setting('segue.pass', true) then
        return null;
    end if;
    raise exception using
        errcode = '40001',
        constraint = 'segue_fence',
        schema = tg_table_schema,
        table = tg_table_name,
        message = format('writes to %I wait: a migration is under way', tg_table_name),
        hint = 'Try the transaction again'
            || coalesce(to_char(gate.until at time zone 'UTC', '"; the migration has until "YYYY-MM-DD HH24:MI:SS" UTC"'), '');
end
$$;

revoke execute on function segue.fence_guard() from public;
