-- The schema that plans change, and Segue's own. Parameter: schema (name).
select
    n.oid is not null as found,
    coalesce(pg_catalog.has_schema_privilege(n.oid, 'CREATE'), false) as may_create,
    coalesce(pg_catalog.has_schema_privilege(n.oid, 'USAGE'), false) as may_use,
    s.oid is not null as has_own,
    coalesce(pg_catalog.pg_has_role(s.nspowner, 'USAGE'), false) as owns_own,
    pg_catalog.pg_get_userbyid(s.nspowner) as own_owner,
    pg_catalog.has_database_privilege(current_database(), 'CREATE') as may_make_own
from (select %(schema)s::name as wanted) as w
left join pg_catalog.pg_namespace as n on n.nspname = w.wanted
left join pg_catalog.pg_namespace as s on s.nspname = 'segue'
