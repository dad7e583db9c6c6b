-- Whether values of one type are values of another as they are stored. Parameters: from (oid), to (oid).
select
    exists (
        select from pg_catalog.pg_cast as k
        where k.castsource = %(from)s::oid and k.casttarget = %(to)s::oid and k.castmethod = 'b'
    ) as same_bytes,
    pg_catalog.format_type(%(from)s::oid, null) as from_name,
    pg_catalog.format_type(%(to)s::oid, null) as to_name
