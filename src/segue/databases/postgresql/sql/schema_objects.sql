-- Every object of one schema with a digest of its definition. Parameter: schema (name).
-- Positions of columns are left out: a column that was dropped and made again is the same schema.
with space as (
    select oid from pg_catalog.pg_namespace where nspname = %(schema)s
),

relations as (
    select c.oid, c.relname, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relpartbound, c.reloptions,
        c.relpersistence, c.relreplident, c.relowner
    from pg_catalog.pg_class as c
    inner join space on c.relnamespace = space.oid
    where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
)

select
    case r.relkind
        when 'v' then 'view ' when 'm' then 'materialized view ' when 'S' then 'sequence ' else 'table '
    end || r.relname as object,
    md5(concat_ws(
        '|', r.relkind, r.relpersistence, pg_catalog.pg_get_userbyid(r.relowner), r.relrowsecurity, r.relforcerowsecurity, r.relreplident,
        pg_catalog.pg_get_expr(r.relpartbound, r.oid), array_to_string(r.reloptions, ','),
        case when r.relkind in ('v', 'm') then pg_catalog.pg_get_viewdef(r.oid) end,
        (select string_agg(i.inhparent::regclass::text, ',' order by i.inhparent)
            from pg_catalog.pg_inherits as i where i.inhrelid = r.oid),
        (select concat_ws(
                ',', pg_catalog.format_type(q.seqtypid, null), q.seqstart, q.seqincrement, q.seqmax, q.seqmin,
                q.seqcache, q.seqcycle
            ) from pg_catalog.pg_sequence as q where q.seqrelid = r.oid),
        (select pg_catalog.pg_get_partkeydef(r.oid) where r.relkind = 'p')
    )) as digest
from relations as r
union all
select
    'column ' || r.relname || '.' || a.attname,
    md5(concat_ws(
        '|', pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
        a.attcollation, a.attstorage, pg_catalog.pg_get_expr(d.adbin, d.adrelid)
    ))
from relations as r
inner join pg_catalog.pg_attribute as a on r.oid = a.attrelid and a.attnum > 0 and not a.attisdropped
left join pg_catalog.pg_attrdef as d on a.attrelid = d.adrelid and a.attnum = d.adnum
where r.relkind in ('r', 'p', 'f')
union all
select
    'constraint ' || c.conname || ' on ' || r.relname,
    md5(concat_ws('|', pg_catalog.pg_get_constraintdef(c.oid), c.convalidated))
from relations as r
inner join pg_catalog.pg_constraint as c on r.oid = c.conrelid
where c.contype <> 'n'
union all
select
    'index ' || x.relname || ' on ' || r.relname,
    md5(concat_ws('|', pg_catalog.pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready))
from relations as r
inner join pg_catalog.pg_index as i on r.oid = i.indrelid
inner join pg_catalog.pg_class as x on i.indexrelid = x.oid
union all
select
    'trigger ' || t.tgname || ' on ' || r.relname,
    md5(concat_ws('|', pg_catalog.pg_get_triggerdef(t.oid), t.tgenabled))
from relations as r
inner join pg_catalog.pg_trigger as t on r.oid = t.tgrelid and not t.tgisinternal
inner join pg_catalog.pg_proc as tf on t.tgfoid = tf.oid
inner join pg_catalog.pg_namespace as tn on tf.pronamespace = tn.oid
-- Segue's own come and go with an execution, and with a move.
where tn.nspname !~ '^segue(_move_[a-z0-9]+)?$'
union all
select
    'rule ' || u.rulename || ' on ' || r.relname,
    md5(concat_ws('|', pg_catalog.pg_get_ruledef(u.oid), u.ev_enabled))
from relations as r
inner join pg_catalog.pg_rewrite as u on r.oid = u.ev_class and u.rulename <> '_RETURN'
union all
select
    'statistics ' || x.stxname,
    md5(pg_catalog.pg_get_statisticsobjdef(x.oid))
from pg_catalog.pg_statistic_ext as x
inner join space on x.stxnamespace = space.oid
union all
select
    'policy ' || p.polname || ' on ' || r.relname,
    md5(concat_ws(
        '|', p.polcmd, p.polpermissive, array_to_string(p.polroles, ','),
        pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)
    ))
from relations as r
inner join pg_catalog.pg_policy as p on r.oid = p.polrelid
union all
select
    'function ' || f.proname || '(' || pg_catalog.pg_get_function_identity_arguments(f.oid) || ')',
    md5(case when f.prokind = 'a' then f.proname else pg_catalog.pg_get_functiondef(f.oid) end)
from pg_catalog.pg_proc as f
inner join space on f.pronamespace = space.oid
union all
select
    'type ' || t.typname,
    md5(concat_ws(
        '|', t.typtype, pg_catalog.format_type(t.typbasetype, t.typtypmod), t.typnotnull, t.typdefault,
        (select string_agg(e.enumlabel, ',' order by e.enumsortorder)
            from pg_catalog.pg_enum as e where e.enumtypid = t.oid),
        (select string_agg(pg_catalog.pg_get_constraintdef(c.oid), ',' order by c.conname)
            from pg_catalog.pg_constraint as c where c.contypid = t.oid),
        (select string_agg(
                a.attname || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod), ',' order by a.attnum
            ) from pg_catalog.pg_attribute as a
            where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped),
        (select pg_catalog.format_type(g.rngsubtype, null) from pg_catalog.pg_range as g where g.rngtypid = t.oid)
    ))
from pg_catalog.pg_type as t
inner join space on t.typnamespace = space.oid
left join pg_catalog.pg_class as k on t.typrelid = k.oid
where t.typtype in ('e', 'd', 'r') or k.relkind = 'c'
