/* ---
kind: consistency
schedule: daily
description: By currency, the reconciliation holds each Stripe charge of fct_payments that collected something exactly once.
--- */
with mart as (
    select currency, sum(stripe_payments) as payments
    from mart_revenue_reconciliation
    group by currency
),

facts as (
    select currency, count(*) as payments
    from fct_payments
    where status = 'succeeded' and amount_captured_minor > 0
    group by currency
)

select
    coalesce(mart.currency, facts.currency) as currency,
    mart.payments,
    facts.payments as payments_in_facts
from mart
full join facts on facts.currency = mart.currency
where coalesce(mart.payments, 0) <> coalesce(facts.payments, 0)
