-- name: state
with latest as (
    select flow, state, started_at, coalesce(finished_at, started_at) as told_at
    from ops.run
    where state not in ('Running', 'Late')
    order by started_at desc
    limit 1
),

trouble as (
    select
        count(*) filter (where severity = 'critical') as critical_incidents,
        count(*) filter (where severity = 'warning') as warning_incidents
    from ops.incident
    where resolved_at is null
),

waiting as (
    select count(*) as not_started
    from ops.run
    where
        state = 'Late'
        and finished_at is null
        and started_at > :as_of - interval '1 day'
        and started_at <= :as_of - :late_after
        and not exists (
            select from ops.stream_progress
            where run.flow = 'event_stream' and reported_at > (run.summary ->> 'reported_at')::timestamptz
        )
),

signals as (
    select
        count(*) as signals,
        count(*) filter (where verdict = 'critical') as critical_signals,
        count(*) filter (where verdict = 'warning') as warning_signals,
        count(*) filter (where verdict = 'unknown') as unknown_signals,
        max(measured_at) as measured_at
    from ops.health
)

select
    case
        when critical_incidents + critical_signals > 0 or latest.state in ('Failed', 'Crashed', 'TimedOut')
            then 'critical'
        when warning_incidents + warning_signals + not_started > 0 then 'warning'
        when latest.state is null or signals = 0 or measured_at < :as_of - interval '10 minutes' then 'unknown'
        else 'ok'
    end as verdict,
    trouble.*,
    signals.*,
    waiting.*,
    latest.flow,
    latest.state,
    coalesce(latest.state in ('Failed', 'Crashed', 'TimedOut'), false) as has_failed,
    latest.told_at
from trouble
cross join signals
cross join waiting
left join latest on true;

-- name: incidents
select incident_id, severity, subject, signal, opened_at, message, action
from ops.incident
where resolved_at is null
order by array_position(array['critical', 'warning', 'info'], severity), opened_at
limit 20;

-- name: run
select
    flow,
    state,
    started_at,
    coalesce(
        (summary ->> 'seconds')::numeric, nullif(round(extract(epoch from finished_at - started_at)), 0)
    ) as seconds,
    (summary ->> 'checks')::bigint as checks,
    (summary ->> 'checks_passed')::bigint as checks_passed,
    (
        select coalesce(sum(landed.value::bigint), 0) from jsonb_each_text(summary -> 'landed') as landed
    )::bigint as rows_landed,
    (
        select coalesce(sum(jsonb_array_length(tables.value -> 'windows')), 0)
        from jsonb_each(summary -> 'tables') as tables
    )::bigint as partitions_published,
    (summary ->> 'dead_letters')::bigint as dead_letters,
    summary -> 'failures' ->> 0 as failure,
    summary -> 'warnings' ->> 0 as warning
from ops.run
order by started_at desc
limit 6;

-- name: late
select
    count(*) as tables,
    count(*) filter (where verdict = 'ok') as in_time,
    count(*) filter (where verdict in ('warning', 'critical')) as late
from ops.health
where signal = 'data_freshness';

-- name: waiting
select
    (select count(*) from ops.dead_letter where status = 'waiting') as dead_letters,
    (select count(*) from ops.pending_publish) as publishes,
    (select count(distinct view_name) from ops.refresh_owed) as refreshes;

-- name: checks
select
    count(*) as checks,
    count(*) filter (where passed) as passed,
    round(count(*) filter (where passed)::numeric / nullif(count(*), 0), 4) as share
from ops.check_result
where checked_at > :as_of - interval '24 hours';

-- name: tables
select
    states.table_name,
    sum(states.row_count)::bigint as row_count,
    -- The entry of a partitioned table at '' notes what was consumed, and is no partition.
    coalesce(nullif(count(*) filter (where states.partition <> ''), 0), count(*)) as partitions,
    coalesce(max(run.finished_at), max(states.published_at)) as published_at,
    health.verdict,
    health.value as age_seconds,
    health.limit_value as limit_seconds,
    health.since,
    health.message
from ops.partition_state as states
inner join pg_class as published
    on states.table_name = published.relname and published.relnamespace = 'analytics'::regnamespace
left join ops.ledger as entry on states.token = entry.token
left join ops.run as run on entry.run_id = run.run_id
left join ops.health as health
    on states.table_name = health.subject and health.signal = 'data_freshness'
group by states.table_name, health.verdict, health.value, health.limit_value, health.since, health.message
order by
    array_position(array['critical', 'warning', 'unknown', 'ok'], health.verdict) nulls last,
    states.table_name;

-- name: days
select metrics.date, metrics.total_events, metrics.sessions, metrics.active_users
from analytics.mart_daily_metrics as metrics
where
    metrics.date >= (:as_of at time zone 'UTC')::date - 30
    and metrics.date < (:as_of at time zone 'UTC')::date
order by metrics.date;

-- name: latest_day
select
    metrics.date,
    metrics.total_events,
    metrics.active_users,
    before.total_events as total_events_week_before,
    before.active_users as active_users_week_before
from analytics.mart_daily_metrics as metrics
left join analytics.mart_daily_metrics as before on metrics.date - 7 = before.date
where metrics.date < (:as_of at time zone 'UTC')::date
order by metrics.date desc
limit 1;

-- name: revenue
select
    revenue.currency,
    count(*) as days,
    sum(revenue.orders)::bigint as orders,
    sum(revenue.revenue) as revenue,
    sum(revenue.refunded_amount) as refunded_amount,
    sum(revenue.net_revenue) as net_revenue,
    coalesce(max(currencies.minor_digits), 2) as minor_digits
from analytics.mart_daily_revenue as revenue
left join analytics.dim_currencies as currencies on revenue.currency = currencies.currency
where revenue.date > (:as_of at time zone 'UTC')::date - 7
group by revenue.currency
order by orders desc, revenue.currency;
