-- What tables have that a move could trip over, a row for each kind of thing and table.
-- Parameter: names (of tables and their partitions, as SQL writes them).
with moved as (
    select
        c.*,
        format('%%I.%%I', n.nspname, c.relname) as name
    from unnest(%(names)s::text[]) as t (name)
    inner join pg_catalog.pg_class as c on c.oid = pg_catalog.to_regclass(t.name)
    inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
)

select
    'owner' as kind,
    name as relation,
    quote_ident(pg_catalog.pg_get_userbyid(relowner)::text) as detail
from moved where not pg_catalog.pg_has_role(relowner, 'USAGE')
union all
select
    'select',
    name,
    ''
from moved where not pg_catalog.has_table_privilege(oid, 'SELECT')
union all
select
    'row security',
    name,
    ''
from moved
where
    relrowsecurity and (relforcerowsecurity or not pg_catalog.pg_has_role(relowner, 'USAGE'))
    and not (select r.rolbypassrls or r.rolsuper from pg_catalog.pg_roles as r where r.rolname = current_user)
union all
select
    'rule',
    m.name,
    r.rulename::text
from moved as m
inner join pg_catalog.pg_rewrite as r on m.oid = r.ev_class
where r.ev_enabled in ('R', 'A')
union all
select
    'trigger',
    m.name,
    t.tgname::text
from moved as m
inner join pg_catalog.pg_trigger as t on m.oid = t.tgrelid
where not t.tgisinternal and t.tgenabled in ('R', 'A') and t.tgname not like 'segue\_%%'
union all
select
    'large object',
    m.name,
    a.attname::text
from moved as m
inner join pg_catalog.pg_attribute as a on m.oid = a.attrelid and a.attnum > 0 and not a.attisdropped
inner join pg_catalog.pg_type as t on a.atttypid = t.oid
where t.typname = 'lo' or (t.oid = 'oid'::regtype and exists (select from pg_catalog.pg_largeobject_metadata))
union all
select
    'inherits',
    m.name,
    i.inhparent::regclass::text
from moved as m
inner join pg_catalog.pg_inherits as i on m.oid = i.inhrelid
where i.inhparent <> all(select oid from moved)
union all
select
    'shared sequence',
    m.name,
    d.refobjid::regclass::text || ', from which ' || string_agg(distinct o.adrelid::regclass::text, ', ') || ' draws too'
from moved as m
inner join pg_catalog.pg_attrdef as f on m.oid = f.adrelid
inner join pg_catalog.pg_depend as d
    on d.classid = 'pg_attrdef'::regclass and f.oid = d.objid and d.refclassid = 'pg_class'::regclass
inner join pg_catalog.pg_class as s on d.refobjid = s.oid and s.relkind = 'S'
inner join pg_catalog.pg_depend as e
    on e.classid = 'pg_attrdef'::regclass and e.refclassid = 'pg_class'::regclass and s.oid = e.refobjid
inner join pg_catalog.pg_attrdef as o on e.objid = o.oid and o.adrelid <> all(select oid from moved)
group by m.name, d.refobjid
union all
select
    'subscribed',
    m.name,
    s.subname::text
from moved as m
inner join pg_catalog.pg_subscription_rel as r on m.oid = r.srrelid
inner join pg_catalog.pg_subscription as s on r.srsubid = s.oid
where s.subname not like 'segue\_move\_%%'
order by 1, 2, 3
