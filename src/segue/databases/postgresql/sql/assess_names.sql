-- What names mean now; a name that means nothing gives no row. Parameters: names (text[], as SQL writes them).
select
    w.name,
    c.oid::bigint as relation,
    i.indrelid::bigint as table_of_index
from unnest(%(names)s::text[]) as w (name)
inner join pg_catalog.pg_class as c on c.oid = pg_catalog.to_regclass(w.name)
left join pg_catalog.pg_index as i on c.oid = i.indexrelid
