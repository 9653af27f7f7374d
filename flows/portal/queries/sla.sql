-- name: measured
select
    min(since) as since,
    max(until) as until,
    count(distinct subject) filter (where signal = 'data_freshness') as tables
from ops.health_span
where until > :as_of - interval '30 days';

-- name: days
with spans as (
    select
        days.day::date as date,
        verdict,
        extract(epoch from least(until + interval '1 minute', days.day + interval '1 day') - greatest(since, days.day))
        / 60 as minutes
    from
        generate_series(
            date_trunc('day', :as_of - interval '29 days', 'UTC'), :as_of, interval '1 day'
        ) as days (day)
    inner join ops.health_span as span
        on span.since < days.day + interval '1 day' and span.until >= days.day
    where span.signal = 'data_freshness'
)

select
    date,
    coalesce(sum(minutes) filter (where verdict = 'ok'), 0)::bigint as in_time,
    coalesce(sum(minutes) filter (where verdict in ('warning', 'critical')), 0)::bigint as late,
    coalesce(sum(minutes) filter (where verdict = 'unknown'), 0)::bigint as not_known
from spans
group by date
order by date;

-- name: burning
select subject, verdict, value as rate, limit_value as allowed, since, message
from ops.health
where signal = 'sla_burn'
order by subject;
