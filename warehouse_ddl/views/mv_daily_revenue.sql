-- Orders and money per day and currency. Amounts of different currencies are never added.
create materialized view if not exists analytics.mv_daily_revenue as
select
    date,
    currency,
    orders,
    revenue,
    refunded_amount,
    net_revenue,
    round(revenue / nullif(orders, 0), 2) as revenue_per_order
from analytics.mart_daily_revenue;

create unique index if not exists idx_mv_daily_revenue on analytics.mv_daily_revenue (date, currency);

comment on materialized view analytics.mv_daily_revenue is 'One row per day (UTC) and currency: orders placed, what they bring in, what was given back.';
comment on column analytics.mv_daily_revenue.revenue_per_order is 'revenue / orders, in major units of the currency; null when nothing was ordered';
