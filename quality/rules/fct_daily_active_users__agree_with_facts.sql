/* ---
kind: consistency
schedule: daily
description: >
  A day's daily_active_users are the distinct users of fct_events on that UTC day. Days before the first
  that fct_events still holds are past its retention and not judged.
--- */
with facts as (
    select
        cast(event_time at time zone 'UTC' as date) as date,
        count(distinct user_id) as daily_active_users
    from fct_events
    group by cast(event_time at time zone 'UTC' as date)
),

held as (select min(date) as first_date from facts)

select
    coalesce(daily.date, facts.date) as date,
    daily.daily_active_users,
    facts.daily_active_users as users_in_facts
from fct_daily_active_users as daily
full join facts on facts.date = daily.date
cross join held
where
    coalesce(daily.date, facts.date) >= coalesce(held.first_date, daily.date)
    and coalesce(daily.daily_active_users, 0) <> coalesce(facts.daily_active_users, 0)
