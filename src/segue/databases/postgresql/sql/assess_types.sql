-- Types by name, with their base where they are domains, and the tables with a column of them.
-- Parameter: names (text[], as SQL writes them).
select
    w.name,
    t.oid::bigint as type,
    t.typtype::text,
    exists (
        select from pg_catalog.pg_constraint as k where k.contypid = t.oid and k.contype in ('c', 'n')
    ) or t.typnotnull as constrained,
    array(
        select distinct a.attrelid::bigint
        from pg_catalog.pg_attribute as a
        inner join pg_catalog.pg_class as c on a.attrelid = c.oid
        where a.atttypid in (t.oid, t.typarray) and c.relkind in ('r', 'm', 'p') and not a.attisdropped
    ) as tables
from unnest(%(names)s::text[]) as w (name)
inner join pg_catalog.pg_type as t on t.oid = pg_catalog.to_regtype(w.name)
