-- Views and materialised views that use some tables, directly or through other views, with the columns that they use
-- (0: the table as such). Parameter: tables (oid[]).
with recursive users (root, used, view, position) as (
    select d.refobjid, d.refobjid, r.ev_class, d.refobjsubid
    from pg_catalog.pg_depend as d
    inner join pg_catalog.pg_rewrite as r on d.objid = r.oid
    where
        d.classid = 'pg_catalog.pg_rewrite'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
        and d.refobjid = any(%(tables)s::oid[]) and r.ev_class <> d.refobjid
    union
    select u.root, u.view, r.ev_class, 0
    from users as u
    inner join pg_catalog.pg_depend as d
        on u.view = d.refobjid and d.refclassid = 'pg_catalog.pg_class'::regclass
        and d.classid = 'pg_catalog.pg_rewrite'::regclass
    inner join pg_catalog.pg_rewrite as r on d.objid = r.oid and r.ev_class <> d.refobjid
)

select u.root::bigint, u.view::bigint, bool_or(u.used = u.root) as directly, array_agg(distinct u.position) as columns
from users as u
group by u.root, u.view
order by u.root, u.view
