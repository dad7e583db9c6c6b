-- Where an application reads and writes tables that are moved. In the source of the moves; everybody may read it.
create schema if not exists segue_routing;

create table if not exists segue_routing.kept (
    move text primary key,
    tables text[] not null,
    source text not null,
    target text not null,
    -- Which of both is written to.
    writes text not null check (writes in ('source', 'target')),
    -- Reads for the target while the source is written to: for a moment only, which a process of Segue's lengthens.
    percent smallint not null default 0 check (percent between 0 and 100),
    until timestamptz,
    keeper uuid,
    changed_at timestamptz not null default clock_timestamp()
);

create or replace view segue_routing.moves as
select
    move,
    tables,
    source,
    target,
    case writes when 'source' then source else target end as writes_to,
    case
        when writes = 'target' then 100
        when until > clock_timestamp() then percent
        else 0
    end as reads_percent,
    case when writes = 'source' and until > clock_timestamp() and percent > 0 then until end as reads_until,
    changed_at
from segue_routing.kept;

grant usage on schema segue_routing to public;
grant select on segue_routing.moves to public;
