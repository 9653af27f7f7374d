/* ---
kind: consistency
schedule: daily
description: A day's orders and revenue by currency are those of fct_orders, cancelled ones apart, to the cent.
--- */
with orders as (
    select
        order_date as date,
        currency,
        count(*) filter (where status <> 'cancelled') as orders,
        count(*) filter (where status = 'cancelled') as cancelled_orders,
        sum(revenue) filter (where status <> 'cancelled') as revenue
    from fct_orders
    group by order_date, currency
)

select
    coalesce(mart.date, orders.date) as date,
    coalesce(mart.currency, orders.currency) as currency,
    mart.orders,
    orders.orders as orders_in_facts,
    mart.revenue,
    orders.revenue as revenue_in_facts
from mart_daily_revenue as mart
full join orders on orders.date = mart.date and orders.currency = mart.currency
where
    coalesce(mart.orders, 0) <> coalesce(orders.orders, 0)
    or coalesce(mart.cancelled_orders, 0) <> coalesce(orders.cancelled_orders, 0)
    or coalesce(mart.revenue, 0) <> coalesce(orders.revenue, 0)
