-- Sequences that tables' columns own or draw their defaults from. Parameter: names (of tables, as SQL writes them).
select
    format('%%I.%%I', n.nspname, c.relname) as name,
    s.seqincrement,
    s.seqmin,
    s.seqmax,
    s.seqcycle,
    s.seqstart
from pg_catalog.pg_sequence as s
inner join pg_catalog.pg_class as c on s.seqrelid = c.oid
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
where
    exists (
        select from pg_catalog.pg_depend as d
        where
            d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass
            and d.deptype in ('a', 'i') and d.refobjid = any(select pg_catalog.to_regclass(t) from unnest(%(names)s::text[]) as t)
    )
    or exists (
        select from pg_catalog.pg_depend as d
        inner join pg_catalog.pg_attrdef as f on d.objid = f.oid
        where
            d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid
            and f.adrelid = any(select pg_catalog.to_regclass(t) from unnest(%(names)s::text[]) as t)
    )
order by name
