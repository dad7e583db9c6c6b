-- Views, and functions whose bodies the server has parsed, with the tables they read or write, through other views too;
-- functions kept as text, with those whose names occur in it. `trigger`: a table whose writes call the function.
with recursive used (kind, oid, by) as (
    select
        case when d.classid = 'pg_catalog.pg_proc'::regclass then 'function' else 'view' end,
        d.refobjid,
        coalesce(r.ev_class, d.objid)
    from pg_catalog.pg_depend as d
    left join pg_catalog.pg_rewrite as r on d.classid = 'pg_catalog.pg_rewrite'::regclass and r.oid = d.objid
    where
        d.refclassid = 'pg_catalog.pg_class'::regclass and d.deptype = 'n'
        and (d.classid = 'pg_catalog.pg_proc'::regclass or (r.oid is not null and r.ev_class <> d.refobjid))
    union
    select
        u.kind,
        d.refobjid,
        u.by
    from used as u
    inner join pg_catalog.pg_rewrite as r on u.oid = r.ev_class
    inner join pg_catalog.pg_depend as d
        on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = r.oid and d.deptype = 'n'
        and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid <> r.ev_class
),

tables (oid, name) as (
    select c.oid, c.relname
    from pg_catalog.pg_class as c inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
    where
        c.relkind in ('r', 'p') and not c.relispartition and n.nspname !~ '^(pg_|segue$|segue_)'
        and n.nspname <> 'information_schema'
)

select
    u.kind,
    case when u.kind = 'view' then u.by::regclass::text else u.by::regprocedure::text end as what,
    array_agg(distinct u.oid::bigint) as tables,
    true as certain
from used as u
inner join tables as t using (oid)
group by u.kind, u.by
union all
select
    case when exists (select from pg_catalog.pg_trigger as g where g.tgfoid = p.oid) then 'trigger' else 'function' end,
    p.oid::regprocedure::text,
    (
        select array_agg(distinct m.oid::bigint)
        from (
            select t.oid from tables as t where p.prosrc ~ ('\y' || regexp_replace(t.name, '(\W)', '\\\1', 'g') || '\y')
            union all
            select t.oid
            from pg_catalog.pg_trigger as g
            inner join tables as t on coalesce(pg_catalog.pg_partition_root(g.tgrelid), g.tgrelid) = t.oid
            where g.tgfoid = p.oid
        ) as m
    ),
    false
from pg_catalog.pg_proc as p
inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
inner join pg_catalog.pg_language as l on p.prolang = l.oid
where
    l.lanname not in ('c', 'internal') and p.prosqlbody is null and n.nspname !~ '^(pg_|segue$|segue_)'
    and n.nspname <> 'information_schema'
    and not exists (
        select from pg_catalog.pg_depend as d
        where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
    )
order by 1, 2
