-- Tables that materialised views read, at any depth. Parameter: views (oid[]).
with recursive sources (root, relation) as (
    select v.relation, v.relation from unnest(%(views)s::oid[]) as v (relation)
    union
    select s.root, d.refobjid
    from sources as s
    inner join pg_catalog.pg_rewrite as r on s.relation = r.ev_class
    inner join pg_catalog.pg_depend as d
        on r.oid = d.objid and d.classid = 'pg_catalog.pg_rewrite'::regclass
        and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid <> s.relation
)

select distinct s.root::bigint, s.relation::bigint
from sources as s
where s.relation <> s.root
