-- How the pipeline is: what the monitor found last, every minute's verdict, and what was told to whom.

create table if not exists ops.health (
    signal text not null,
    subject text not null,
    verdict text not null check (verdict in ('ok', 'warning', 'critical', 'unknown')),
    value double precision,
    limit_value double precision,
    unit text not null default '',
    since timestamptz not null,
    measured_at timestamptz not null,
    message text not null default '',
    action text not null default '',
    observed jsonb not null default '{}',
    primary key (signal, subject)
);
comment on table ops.health is 'What the monitor found last: one row per signal (data_freshness, row_count, …) and what it is about (a table, an entity, a slot). since: from when on the verdict is what it is.';

create table if not exists ops.health_span (
    signal text not null,
    subject text not null,
    since timestamptz not null,
    until timestamptz not null,
    verdict text not null check (verdict in ('ok', 'warning', 'critical', 'unknown')),
    primary key (signal, subject, since),
    check (since <= until)
);
create index if not exists idx_health_span_until on ops.health_span (until);
comment on table ops.health_span is 'Every minute''s verdict, told in spans: one row per signal, subject and uninterrupted time in which each minute was measured and had the same verdict. A minute that no span covers was not measured.';

create table if not exists ops.incident (
    incident_id text primary key,
    cause text not null,
    signal text not null,
    subject text not null,
    severity text not null check (severity in ('critical', 'warning', 'info')),
    severity_since timestamptz,
    owner text not null default '',
    since timestamptz,
    opened_at timestamptz not null,
    seen_at timestamptz not null,
    good_since timestamptz,
    patience interval not null default '0',
    resolved_at timestamptz,
    acknowledged_at timestamptz,
    acknowledged_by text,
    escalated_at timestamptz,
    message text not null,
    action text not null default '',
    runbook text not null default '',
    touches jsonb not null default '[]',
    members jsonb not null default '[]',
    about jsonb not null default '[]',
    taken_in_by text
);
create unique index if not exists idx_incident_open on ops.incident (cause) where resolved_at is null;
create index if not exists idx_incident_time on ops.incident (opened_at desc);
comment on table ops.incident is 'One row per trouble, from the first verdict that showed it to the last: its cause, what else failed because of it (members), what it touches downstream.';
comment on column ops.incident.since is 'From when on its cause is bad; opened_at is when that was seen.';
comment on column ops.incident.severity_since is 'From when on the severity is what it is; how long that lasts decides when it is escalated.';
comment on column ops.incident.good_since is 'From when on its cause and all its members are well; null while one is not. Once resolved it is resolved_at.';
comment on column ops.incident.patience is 'How long all must be well before it is resolved: longer for what came back soon after it was resolved.';
comment on column ops.incident.about is 'Tables that the cause is about.';
comment on column ops.incident.taken_in_by is 'The incident of its cause, where that was found later; such an incident counts no more.';

create table if not exists ops.notification (
    notification_id bigint generated always as identity primary key,
    incident_id text references ops.incident (incident_id) on delete cascade,
    kind text not null check (kind in ('opened', 'escalated', 'resolved', 'info')),
    channel text not null,
    severity text not null check (severity in ('critical', 'warning', 'info')),
    title text not null,
    body text not null,
    html text not null default '',
    occasion text,
    created_at timestamptz not null,
    due_at timestamptz,
    tried_at timestamptz,
    sent_at timestamptz,
    given_up_at timestamptz,
    tries integer not null default 0,
    problem text not null default ''
);
do $$
begin
    if not exists (
        select from pg_attribute where attrelid = 'ops.notification'::regclass and attname = 'html'
    ) then
        alter table ops.notification add column html text not null default '';
    end if;
    if not exists (
        select from pg_attribute where attrelid = 'ops.notification'::regclass and attname = 'occasion'
    ) then
        alter table ops.notification add column occasion text;
    end if;
end
$$;
create unique index if not exists idx_notification_occasion on ops.notification (occasion, channel) where occasion is not null;
create index if not exists idx_notification_unsent on ops.notification (created_at) where sent_at is null;
comment on table ops.notification is 'One row per message and channel: when it went, or why it did not.';
comment on column ops.notification.html is 'The same as a page, for channels that are e-mail; empty where there is none.';
comment on column ops.notification.occasion is 'What a channel is told of once: a day, a week; null for what comes as it comes.';
comment on column ops.notification.due_at is 'When it may go: after quiet hours, or when it is tried again.';
comment on column ops.notification.given_up_at is 'When it was decided that it will not go: its tries are used up, or it was overtaken.';
