"""The keys by which a table's rows can be walked: unique, over NOT NULL columns, in the order of a btree index."""

from __future__ import annotations

# The primary key first, then the narrowest unique index over NOT NULL columns without expression or predicate. A key
# in another collation than its index would be walked in another order than it is stored in. NOT NULL that was never
# validated says nothing about the rows that were there before.
KEYS = """
select array_agg(a.attname order by k.place),
    array_agg(pg_catalog.format_type(a.atttypid, a.atttypmod) order by k.place),
    array_agg(
        case when i.indcollation[k.place - 1] <> 0 then (
            select quote_ident(n.nspname) || '.' || quote_ident(o.collname)
            from pg_catalog.pg_collation as o
            join pg_catalog.pg_namespace as n on n.oid = o.collnamespace
            where o.oid = i.indcollation[k.place - 1] and o.collname <> 'default'
        ) end order by k.place
    ),
    c.relname
from pg_catalog.pg_index as i
join pg_catalog.pg_class as c on c.oid = i.indexrelid
join pg_catalog.pg_am as m on m.oid = c.relam
cross join lateral unnest(i.indkey::smallint[]) with ordinality as k (attnum, place)
join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
where i.indrelid = %(table)s::regclass and i.indisunique and i.indisvalid and i.indimmediate
    and i.indpred is null and i.indexprs is null and m.amname = 'btree' and k.place <= i.indnkeyatts
    and not exists (
        select from pg_catalog.pg_constraint as n
        where n.conrelid = i.indrelid and n.contype = 'n' and not n.convalidated and a.attnum = any(n.conkey)
    )
group by i.indexrelid, i.indisprimary, i.indnkeyatts, c.relname
having bool_and(a.attnotnull) and count(*) = i.indnkeyatts
order by i.indisprimary desc, i.indnkeyatts, i.indexrelid
"""
