-- What closes a read-only copy. {schema}: the copy's own; {home}: a sentence that names where the tables are written to.
-- It is refused as a standby refuses it: trying again does not help, connecting to the home does.
create or replace function {schema}.fence() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    -- Rows that are replicated fire no statement triggers; a replicated TRUNCATE does, and passes.
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
        errcode = '25006',
        constraint = 'segue_read_only',
        schema = tg_table_schema,
        table = tg_table_name,
        message = format('table %I is a read-only copy here', tg_table_name),
        hint = {home};
end
$$
