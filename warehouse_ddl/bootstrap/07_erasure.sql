-- Who was erased. It outlives every table that the person was in: what a source still tells of them is held
-- against it, and so is every backup that is restored.

create table if not exists ops.erasure (
    user_id bigint primary key,
    alias text not null,
    salt text not null,
    email_hashes text[] not null default '{}',
    reason text not null default '',
    asked_at timestamptz not null,
    finished_at timestamptz,
    identifiers jsonb not null default '[]',
    found jsonb not null default '{}'
);
comment on table ops.erasure is 'One row per erased person. Their addresses are kept as salted hashes, to know them again; as they are only until the erasure is finished (identifiers).';
