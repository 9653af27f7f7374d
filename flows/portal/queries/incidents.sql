-- name: summary
select count(*) as still_open, count(*) filter (where severity = 'critical') as open_critical
from ops.incident
where resolved_at is null;

-- name: summary_again
select count(*) as opened, count(resolved_at) as resolved
from ops.incident
where opened_at > :as_of - interval '30 days';

-- name: lasted
select
    percentile_cont(0.5) within group (order by extract(epoch from resolved_at - opened_at))::bigint as median_seconds
from ops.incident
where resolved_at > :as_of - interval '30 days';

-- name: incidents
select
    incident_id,
    severity,
    signal,
    subject,
    owner,
    opened_at,
    seen_at,
    resolved_at,
    extract(epoch from coalesce(resolved_at, :as_of) - opened_at)::bigint as seconds,
    acknowledged_at,
    acknowledged_by,
    escalated_at,
    message,
    action,
    runbook,
    touches,
    members
from ops.incident
where resolved_at is null or resolved_at > :as_of - interval '90 days'
order by
    resolved_at is not null,
    array_position(array['critical', 'warning', 'info'], case when resolved_at is null then severity end),
    opened_at desc,
    incident_id
limit 200;

-- name: messages
select created_at, kind, severity, channel, title, sent_at, given_up_at, tries, problem
from ops.notification
order by created_at desc, notification_id desc
limit 100;

-- name: signals
select signal, subject, verdict, value, limit_value, unit, since, measured_at, message, action
from ops.health
where verdict <> 'ok'
order by array_position(array['critical', 'warning', 'unknown'], verdict), since, signal, subject
limit 200;
