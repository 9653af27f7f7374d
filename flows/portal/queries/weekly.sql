-- name: week
select
    date_trunc('week', :as_of at time zone 'UTC')::date - 7 as first_day,
    date_trunc('week', :as_of at time zone 'UTC')::date - 1 as last_day;

-- name: people
select
    sum(total_events) filter (where date >= monday - 7)::bigint as events,
    sum(total_events) filter (where date < monday - 7)::bigint as events_before,
    round(avg(active_users) filter (where date >= monday - 7)) as active_users,
    round(avg(active_users) filter (where date < monday - 7)) as active_users_before
from analytics.mart_daily_metrics
cross join (select date_trunc('week', :as_of at time zone 'UTC')::date as monday) as this_week
where date >= monday - 14 and date < monday;

-- name: money
select
    revenue.currency,
    sum(revenue.orders) filter (where revenue.date >= monday - 7)::bigint as orders,
    sum(revenue.revenue) filter (where revenue.date >= monday - 7) as revenue,
    sum(revenue.revenue) filter (where revenue.date < monday - 7) as revenue_before,
    sum(revenue.refunded_amount) filter (where revenue.date >= monday - 7) as refunded_amount,
    coalesce(max(currencies.minor_digits), 2) as minor_digits
from analytics.mart_daily_revenue as revenue
cross join (select date_trunc('week', :as_of at time zone 'UTC')::date as monday) as this_week
left join analytics.dim_currencies as currencies on revenue.currency = currencies.currency
where revenue.date >= monday - 14 and revenue.date < monday
group by revenue.currency
order by orders desc nulls last, revenue.currency;

-- name: runs
select
    count(*) as runs,
    count(*) filter (where state in ('Failed', 'Crashed', 'TimedOut')) as failed,
    count(*) filter (where state = 'Late' and finished_at is null) as not_started,
    coalesce(sum((summary ->> 'checks')::bigint), 0)::bigint as checks,
    coalesce(sum((summary ->> 'checks_passed')::bigint), 0)::bigint as checks_passed
from ops.run
where started_at >= date_trunc('week', :as_of, 'UTC') - interval '7 days' and started_at < date_trunc('week', :as_of, 'UTC');

-- name: incidents_counted
select
    count(*) as incidents,
    count(*) filter (where severity = 'critical') as critical,
    count(*) filter (where resolved_at is null) as still_open,
    greatest(count(*) - 12, 0) as not_listed
from ops.incident
where
    opened_at < date_trunc('week', :as_of, 'UTC')
    and (resolved_at is null or resolved_at >= date_trunc('week', :as_of, 'UTC') - interval '7 days')
    and taken_in_by is null;

-- name: incidents
select severity, subject, opened_at, resolved_at, message
from ops.incident
where
    opened_at < date_trunc('week', :as_of, 'UTC')
    and (resolved_at is null or resolved_at >= date_trunc('week', :as_of, 'UTC') - interval '7 days')
    and taken_in_by is null
order by array_position(array['critical', 'warning', 'info'], severity), opened_at, incident_id
limit 12;
