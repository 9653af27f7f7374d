-- Schemas and roles. Every statement may be run again; who runs them is a superuser, or a member of owner.
-- owner: owns the schemas and the tables of ops. Nobody logs in as it; who sets the warehouse up is a member.
-- loader: the pipeline. Makes and fills tables in analytics, personal and unpublished, writes the ledgers in ops;
--   nothing else. The published tables are its own: only a table's owner attaches a partition or refreshes a view.
-- reader: reads what is published, personal data masked. Give it to people: `grant reader to alice`.
-- pii_reader: the same, and sees personal data as it is.

do $$
declare
    missing text;
begin
    for missing in
        select format('create role %I nologin', name)
        from unnest(array['owner', 'loader', 'reader', 'pii_reader']) as wanted (name)
        where to_regrole(name) is null
    loop
        execute missing;
    end loop;
    for missing in
        select format('grant %I to %I', role, member)
        from (values ('reader', 'pii_reader'), ('pii_reader', 'loader'), ('loader', 'owner')) as wanted (role, member)
        where not pg_has_role(to_regrole(member), to_regrole(role), 'member')
        union all
        -- Who may make roles and made these is no member of them by that.
        select format('grant owner to %I', session_user)
        where not pg_has_role(session_user, to_regrole('owner'), 'member')
    loop
        execute missing;
    end loop;
exception
    -- Another warehouse on the same server may be starting at the same moment: roles belong to the server.
    when duplicate_object or unique_violation then null;
end
$$;

-- `create schema if not exists` asks for a right on the database even where there is nothing to create.
do $$
declare
    missing text;
begin
    for missing in
        select format('create schema %I authorization owner', name)
        from unnest(array['analytics', 'personal', 'unpublished', 'ops']) as wanted (name)
        where to_regnamespace(name) is null
    loop
        execute missing;
    end loop;
end
$$;

comment on schema analytics is 'The star schema, published: everything here has passed its checks. Personal data is masked to all but pii_readers.';
comment on schema personal is 'The published tables that hold personal data; what analytics shows of them are views. Nobody but the pipeline reads here.';
comment on schema unpublished is 'What is not yet published: partitions being loaded and checked. Nobody reads here.';
comment on schema ops is 'What the pipeline knows about itself: ledger, runs, checks, dead letters.';

revoke all on schema analytics, personal, unpublished, ops from public;
grant usage, create on schema analytics, personal, unpublished, ops to loader;
grant usage on schema analytics to reader;

do $$
begin
    -- What a superuser makes belongs to it, as in the sandbox; what others make, to loader or owner.
    if (select rolsuper from pg_roles where rolname = session_user) then
        alter default privileges in schema analytics grant select on tables to reader;
        alter default privileges in schema ops grant select, insert, update, delete on tables to loader;
        alter default privileges in schema ops grant usage, select on sequences to loader;
    end if;
end
$$;
alter default privileges for role loader in schema analytics grant select on tables to reader;
alter default privileges for role owner in schema ops grant select, insert, update, delete on tables to loader;
alter default privileges for role owner in schema ops grant usage, select on sequences to loader;

-- What was there before these roles and defaults were. Only where something is missing: a grant or a new owner
-- writes the row of its table in the catalog even if nothing changes, and a swap of the same table in another run
-- would fail by it. Readers of a partitioned table need no right on its leaves. Published tables change hands
-- once, with their schema; `python -m flows roles` does it again.
do $$
declare
    missing text;
begin
    for missing in
        select format('alter table %s owner to %I', c.oid::regclass, case n.nspname when 'ops' then 'owner' else 'loader' end)
        from pg_class c
        inner join pg_namespace n on n.oid = c.relnamespace
        where n.nspname in ('analytics', 'personal', 'unpublished', 'ops') and c.relkind in ('r', 'p', 'v', 'm')
            and c.relowner not in (to_regrole('owner'), to_regrole('loader'))
            and (n.nspname = 'ops' or n.nspowner <> to_regrole('owner'))
        union all
        select format('alter schema %I owner to owner', n.nspname)
        from pg_namespace n
        where n.nspname in ('analytics', 'personal', 'unpublished', 'ops') and n.nspowner <> to_regrole('owner')
    loop
        execute missing;
    end loop;
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
        select format('grant usage, select on sequence %s to loader', c.oid::regclass)
        from pg_class c
        where c.relnamespace = 'ops'::regnamespace
            and case when c.relkind = 'S' then not has_sequence_privilege('loader', c.oid, 'select') end
    loop
        execute missing;
    end loop;
end
$$;

-- What follows belongs to owner, whoever runs it.
set role owner;

create table if not exists personal.mask_key (
    is_only boolean primary key default true check (is_only),
    key bytea not null
);
insert into personal.mask_key (key)
select decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex')
where not exists (select from personal.mask_key);
comment on table personal.mask_key is 'What masks personal data to readers: of two people with the same mask the text is the same. Who has it can find out whether a text they know is behind a mask.';

do $$
begin
    if to_regclass('personal.access') is null then
        create view personal.access as
        select pg_has_role('pii_reader', 'usage') as is_full, key
        from personal.mask_key;
        grant select on personal.access to loader;
    end if;
end
$$;
do $$
begin
    -- A backup that the pipeline takes has the key too: masks stay what they were when it is restored.
    if not has_table_privilege('loader', 'personal.mask_key', 'select') then
        grant select on personal.mask_key to loader;
    end if;
end
$$;
comment on view personal.access is 'One row: whether who asks may see personal data, and what masks it to others.';
