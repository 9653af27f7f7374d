/* ---
grain:     one row per month, currency and plan with an order
description: Orders by the plan that their user was on when the order was placed, whatever the plan is today.
key:       [month_date, currency, plan]
partition: {by: month_date, every: month}
as_of:     {dim_users_history: created_at}
write:     merge
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [orders, revenue]
  - accepted_values: {column: plan, values: [free, pro, team, unknown]}
    severity: warning
  - between: {column: revenue, min: 0}
--- */
with placed as (
    select
        date_trunc('month', orders.order_date) as month_date,
        orders.currency,
        orders.revenue,
        orders.user_id,
        coalesce(then_user.plan, 'unknown') as plan
    from fct_orders as orders
    asof left join dim_users_history as then_user
        on orders.user_id = then_user.user_id and orders.created_at >= then_user.valid_from
    where orders.status <> 'cancelled'
)

select
    month_date::date as month_date, -- First day of the month in which the orders were placed (UTC)
    currency::varchar as currency, -- ISO 4217 code of the amounts; they are in major units and never added across currencies
    plan::varchar as plan, -- Plan the user was on when the order was placed; unknown before the first known version of the user, and once deleted
    count(*)::bigint as orders, -- Orders placed, cancelled ones left out
    count(distinct user_id)::bigint as customers, -- Users who placed them
    sum(revenue)::decimal(18,2) as revenue -- What the customers of these orders pay; refunds are not taken off
from placed
group by month_date, currency, plan
