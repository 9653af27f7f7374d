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

grant select on all tables in schema analytics to reader;
alter default privileges in schema analytics grant select on tables to reader;
grant select, insert, update, delete on all tables in schema ops to loader;
grant usage on all sequences in schema ops to loader;
alter default privileges in schema ops grant select, insert, update, delete on tables to loader;
alter default privileges in schema ops grant usage on sequences to loader;
