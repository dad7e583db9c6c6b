-- Tables and everything below them, with what following them depends on. Parameter: names (of tables, as SQL writes them).
with recursive below (root, oid) as (
    select
        (n.number - 1)::int,
        pg_catalog.to_regclass(n.name)::oid
    from unnest(%(names)s::text[]) with ordinality as n (name, number)
    where pg_catalog.to_regclass(n.name) is not null
    union all
    select
        b.root,
        i.inhrelid
    from below as b inner join pg_catalog.pg_inherits as i on b.oid = i.inhparent
)

select
    b.root,
    format('%%I.%%I', n.nspname, c.relname) as name,
    c.relispartition,
    exists (
        select from pg_catalog.pg_index as x
        where x.indrelid = c.oid and x.indisprimary and x.indisvalid and x.indimmediate
    ) as key,
    c.relreplident::text,
    c.relpersistence::text,
    md5(concat_ws(
        '|', c.relkind, c.relreplident, c.relpersistence, pg_catalog.pg_get_expr(c.relpartbound, c.oid),
        (
            select string_agg(
                concat_ws(
                    ' ', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated,
                    a.attidentity
                ), ',' order by a.attnum
            )
            from pg_catalog.pg_attribute as a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        ),
        (
            select string_agg(a.attname, ',' order by a.attname)
            from pg_catalog.pg_index as x
            inner join pg_catalog.pg_attribute as a on x.indrelid = a.attrelid and a.attnum = any(x.indkey)
            where x.indrelid = c.oid and x.indisprimary
        )
    )) as signature
from below as b
inner join pg_catalog.pg_class as c on b.oid = c.oid
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
order by b.root, c.relispartition, name
