-- What telling people needs beyond ops.incident and ops.notification: how long an incident has been what it is, when
-- a message is due, and when it was given up.

do $$
begin
    -- Asked first: an alter that has nothing to add would wait for every reader of the table all the same.
    if not exists (
        select from pg_attribute where attrelid = 'ops.incident'::regclass and attname = 'good_since'
    ) then
        alter table ops.incident add column since timestamptz, add column severity_since timestamptz,
            add column good_since timestamptz, add column patience interval not null default '0',
            add column about jsonb not null default '[]', add column taken_in_by text;
    end if;
    if not exists (
        select from pg_attribute where attrelid = 'ops.notification'::regclass and attname = 'due_at'
    ) then
        alter table ops.notification add column due_at timestamptz, add column tried_at timestamptz,
            add column given_up_at timestamptz;
    end if;
end
$$;
comment on column ops.incident.since is 'From when on its cause is bad; opened_at is when that was seen.';
comment on column ops.incident.severity_since is 'From when on the severity is what it is; how long that lasts decides when it is escalated.';
comment on column ops.incident.good_since is 'From when on its cause and all its members are well; null while one is not. Once resolved it is resolved_at.';
comment on column ops.incident.patience is 'How long all must be well before it is resolved: longer for what came back soon after it was resolved.';
comment on column ops.incident.about is 'Tables that the cause is about.';
comment on column ops.incident.taken_in_by is 'The incident of its cause, where that was found later; such an incident counts no more.';
comment on column ops.notification.due_at is 'When it may go: after quiet hours, or when it is tried again.';
comment on column ops.notification.given_up_at is 'When it was decided that it will not go: its tries are used up, or it was overtaken.';
