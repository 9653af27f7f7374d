/* ---
grain:     one row per day and currency with an order that should be paid or a Stripe charge that collected something
description: What the application sold against what Stripe collected, both dated by the order. Gross on both sides, before refunds and fees.
key:       [date, currency]
partition: {by: date, every: month}
write:     merge
# A charge is dated by its order, which is up to a month older. One that is further away is a charge without order: were it joined where both
# happen to be read, it would be counted on two days.
lookback:  31 days
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [orders_revenue, stripe_amount, difference, unexplained]
  - sql:
      name: difference_is_explained
      severity: warning
      query: select * from mart_revenue_reconciliation where unexplained <> 0
--- */
with charges as (
    select
        payments.payment_id,
        payments.order_id,
        payments.occurred_at,
        payments.currency,
        -- Minor to major units; dim_currencies lists the currencies that do not have two decimals.
        (payments.amount_captured_minor / power(10, coalesce(currencies.minor_digits, 2)))::decimal(18,2) as amount
    from fct_payments as payments
    left join dim_currencies as currencies on payments.currency = currencies.currency
    -- An authorisation succeeds, too, with its full amount; what was captured of it is what was collected.
    where payments.status = 'succeeded' and payments.amount_captured_minor > 0
),

paid as (
    select charges.payment_id, charges.order_id, orders.order_date, orders.status
    from charges
    inner join fct_orders as orders
        on charges.order_id = orders.order_id
        and charges.occurred_at between orders.created_at - interval 31 days and orders.created_at + interval 31 days
),

paid_otherwise as (
    select payments.order_id
    from stg_app__payments as payments
    inner join fct_orders as orders
        on payments.order_id = orders.order_id
        and payments.created_at between orders.created_at - interval 31 days and orders.created_at + interval 31 days
    where payments.payment_id is null
),

orders as (
    select
        order_date,
        currency,
        revenue,
        order_id in (select order_id from paid) as has_charge,
        order_id in (select order_id from paid_otherwise) as has_other_payment
    from fct_orders
    where status in ('paid', 'shipped', 'delivered', 'refunded') and revenue > 0
),

movements as (
    select
        order_date as date,
        currency,
        1 as orders,
        revenue as orders_revenue,
        case when not has_charge then 1 end as orders_without_charge,
        case when not has_charge and has_other_payment then revenue end as other_revenue
    from orders
    union all by name
    select
        coalesce(paid.order_date, charges.occurred_at::date) as date,
        charges.currency,
        1 as stripe_payments,
        charges.amount as stripe_amount,
        case when paid.status = 'cancelled' then charges.amount end as cancelled_amount,
        case when paid.order_date is null then charges.amount end as unmatched_amount,
        case when paid.order_date is null then 1 end as unmatched_payments
    from charges
    left join paid on charges.payment_id = paid.payment_id
),

days as (
    select
        date,
        currency,
        coalesce(sum(orders), 0) as orders,
        coalesce(sum(orders_revenue), 0) as orders_revenue,
        coalesce(sum(orders_without_charge), 0) as orders_without_charge,
        coalesce(sum(other_revenue), 0) as other_revenue,
        coalesce(sum(stripe_payments), 0) as stripe_payments,
        coalesce(sum(stripe_amount), 0) as stripe_amount,
        coalesce(sum(cancelled_amount), 0) as cancelled_amount,
        coalesce(sum(unmatched_payments), 0) as unmatched_payments,
        coalesce(sum(unmatched_amount), 0) as unmatched_amount
    from movements
    group by date, currency
)

select
    date::date as date, -- Day the orders were placed (UTC); of charges without a known order of the 31 days around them the day of the charge
    currency::varchar as currency, -- ISO 4217 code of the amounts; they are in major units and never added across currencies
    orders::bigint as orders, -- Orders that cost something and are paid, shipped, delivered or refunded
    orders_revenue::decimal(18,2) as orders_revenue, -- Their revenue
    orders_without_charge::bigint as orders_without_charge, -- Those among them of which Stripe collected nothing
    stripe_payments::bigint as stripe_payments, -- Stripe charges that collected something
    stripe_amount::decimal(18,2) as stripe_amount, -- What they collected, before refunds
    (orders_revenue - stripe_amount)::decimal(18,2) as difference, -- orders_revenue - stripe_amount
    other_revenue::decimal(18,2) as other_revenue, -- Part of orders_revenue that was paid otherwise, by bank transfer for example
    cancelled_amount::decimal(18,2) as cancelled_amount, -- Part of stripe_amount whose order was cancelled after it was paid
    unmatched_payments::bigint as unmatched_payments, -- Charges among them whose order the application does not have, or not within 31 days
    unmatched_amount::decimal(18,2) as unmatched_amount, -- Part of stripe_amount of these
    (orders_revenue - stripe_amount - other_revenue + cancelled_amount + unmatched_amount)::decimal(18,2) as unexplained -- What is left of the difference: 0 when of every order was collected what it cost
from days
