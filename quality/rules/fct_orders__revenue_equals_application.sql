/* ---
kind: accuracy
description: >
  Orders and revenue of a day and currency equal what the application's database counted and summed
  in the snapshot that was read, to the cent. Days without such totals are not judged.
--- */
with application as (
    select
        day,
        upper(trim(group_value)) as currency,
        sum(row_count) as orders,
        sum(amount) as revenue
    from control_total
    where entity = 'app.orders'
    group by day, upper(trim(group_value))
),

warehouse as (
    select
        order_date as day,
        currency,
        count(*) as orders,
        sum(revenue) as revenue
    from fct_orders
    where order_date in (select day from application)
    group by order_date, currency
)

select
    coalesce(application.day, warehouse.day) as day,
    coalesce(application.currency, warehouse.currency) as currency,
    application.orders as application_orders,
    warehouse.orders as warehouse_orders,
    application.revenue as application_revenue,
    warehouse.revenue as warehouse_revenue
from application
full join warehouse
    on warehouse.day = application.day and warehouse.currency = application.currency
where
    application.orders is distinct from warehouse.orders
    or application.revenue is distinct from warehouse.revenue
