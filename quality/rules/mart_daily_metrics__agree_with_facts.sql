/* ---
kind: consistency
schedule: daily
description: >
  A day's total_events and active_users are what fct_events holds for that UTC day. Days before the first
  that fct_events still holds are past its retention and not judged.
--- */
with facts as (
    select
        cast(event_time at time zone 'UTC' as date) as date,
        count(*) as total_events,
        count(distinct user_id) as active_users
    from fct_events
    group by cast(event_time at time zone 'UTC' as date)
),

held as (select min(date) as first_date from facts)

select
    coalesce(mart.date, facts.date) as date,
    mart.total_events,
    facts.total_events as events_in_facts,
    mart.active_users,
    facts.active_users as users_in_facts
from mart_daily_metrics as mart
full join facts on facts.date = mart.date
cross join held
where
    coalesce(mart.date, facts.date) >= coalesce(held.first_date, mart.date)
    and (
        mart.total_events is distinct from facts.total_events
        or mart.active_users is distinct from facts.active_users
    )
