-- Tables in Segue's schema with their names; roles by that name; event triggers; publications with tables of a schema.
-- Parameter: schema (name).
select
    array(
        select c.relname::text from pg_catalog.pg_class as c
        inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
        where n.nspname = 'segue' and c.relkind in ('r', 'p', 'v', 'm') order by 1
    ) as in_own,
    exists (
        select from pg_catalog.pg_roles as r
        where r.rolname = 'segue' and r.rolcanlogin and not exists (
            select from pg_catalog.pg_db_role_setting as s
            cross join lateral unnest(s.setconfig) as each (setting)
            where
                s.setrole in (0, r.oid) and each.setting like 'search_path=%%' and each.setting not like '%%$user%%'
                and s.setdatabase in (
                    0, (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
                )
        )
    ) as namesake,
    array(
        select e.evtname || ' (' || e.evtevent || ')' from pg_catalog.pg_event_trigger as e
        where e.evtenabled <> 'D' order by 1
    ) as event_triggers,
    array(
        select distinct p.pubname::text from pg_catalog.pg_publication_tables as p
        where p.schemaname = %(schema)s order by 1
    ) as publications,
    array(
        select p.gid || ' of ' || p.owner || ', '
            || round(extract(epoch from clock_timestamp() - p.prepared))::bigint || ' s old'
        from pg_catalog.pg_prepared_xacts as p
        where p.database = current_database() order by p.prepared
    ) as prepared
