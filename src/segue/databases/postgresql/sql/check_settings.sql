-- What is set for this role, this database, or both.
select split_part(each.setting, '=', 1) as name, substr(each.setting, strpos(each.setting, '=') + 1) as value
from pg_catalog.pg_db_role_setting as s
cross join lateral unnest(s.setconfig) as each (setting)
where
    s.setdatabase in (0, (select d.oid from pg_catalog.pg_database as d where d.datname = current_database()))
    and s.setrole in (0, (select r.oid from pg_catalog.pg_roles as r where r.rolname = session_user))
order by 1
