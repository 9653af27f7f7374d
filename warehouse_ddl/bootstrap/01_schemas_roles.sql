-- Schemas and roles. Every statement may be run again.
-- loader: makes and fills tables in analytics and unpublished, writes the ledgers in ops; nothing else.
-- reader: reads what is published. Give it to people: `grant reader to alice`.

create schema if not exists analytics;
create schema if not exists unpublished;
create schema if not exists ops;

do $$
begin
    if not exists (select from pg_roles where rolname = 'loader') then
        create role loader nologin;
    end if;
    if not exists (select from pg_roles where rolname = 'reader') then
        create role reader nologin;
    end if;
exception
    -- Another warehouse on the same server may be starting at the same moment: roles belong to the server.
    when duplicate_object or unique_violation then null;
end
$$;

comment on schema analytics is 'The star schema, published: everything here has passed its checks.';
comment on schema unpublished is 'What is not yet published: partitions being loaded and checked. Nobody reads here.';
comment on schema ops is 'What the pipeline knows about itself: ledger, runs, checks, dead letters.';

revoke all on schema analytics, unpublished, ops from public;
grant usage, create on schema analytics, unpublished to loader;
grant usage on schema ops to loader;
grant usage on schema analytics to reader;

alter default privileges in schema analytics grant select on tables to reader;
alter default privileges in schema ops grant select, insert, update, delete on tables to loader;
alter default privileges in schema ops grant usage on sequences to loader;

-- What was there before these defaults were. Only where a right is missing: a grant writes the row of its table
-- in the catalog even if nothing changes, and a swap of the same table in another run would fail by it. Readers
-- of a partitioned table need no right on its leaves.
do $$
declare
    missing text;
begin
    for missing in
        select format('grant select on table %s to reader', c.oid::regclass)
        from pg_class c
        where c.relnamespace = 'analytics'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
            and not c.relispartition and not has_table_privilege('reader', c.oid, 'select')
        union all
        select format('grant select, insert, update, delete on table %s to loader', c.oid::regclass)
        from pg_class c
        cross join unnest(array['select', 'insert', 'update', 'delete']) as kind (privilege)
        where c.relnamespace = 'ops'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
        group by c.oid
        having not bool_and(has_table_privilege('loader', c.oid, kind.privilege))
        union all
        select format('grant usage on sequence %s to loader', c.oid::regclass)
        from pg_class c
        where c.relnamespace = 'ops'::regnamespace
            and case when c.relkind = 'S' then not has_sequence_privilege('loader', c.oid, 'usage') end
    loop
        execute missing;
    end loop;
end
$$;
