-- Generated from transforms/marts/mart_revenue_reconciliation.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists analytics.mart_revenue_reconciliation (
    date date not null,
    currency text not null,
    orders bigint,
    orders_revenue numeric(18,2) not null,
    orders_without_charge bigint,
    stripe_payments bigint,
    stripe_amount numeric(18,2) not null,
    difference numeric(18,2) not null,
    other_revenue numeric(18,2),
    cancelled_amount numeric(18,2),
    unmatched_payments bigint,
    unmatched_amount numeric(18,2),
    unexplained numeric(18,2) not null,
    constraint mart_revenue_reconciliation_pkey primary key (date, currency)
);
comment on table analytics.mart_revenue_reconciliation is 'What the application sold against what Stripe collected, both dated by the order. Gross on both sides, before refunds and fees. One row per day and currency with an order that should be paid or a Stripe charge that collected something.';
comment on column analytics.mart_revenue_reconciliation.date is 'Day the orders were placed (UTC); of charges without a known order of the 31 days around them the day of the charge';
comment on column analytics.mart_revenue_reconciliation.currency is 'ISO 4217 code of the amounts; they are in major units and never added across currencies';
comment on column analytics.mart_revenue_reconciliation.orders is 'Orders that cost something and are paid, shipped, delivered or refunded';
comment on column analytics.mart_revenue_reconciliation.orders_revenue is 'Their revenue';
comment on column analytics.mart_revenue_reconciliation.orders_without_charge is 'Those among them of which Stripe collected nothing';
comment on column analytics.mart_revenue_reconciliation.stripe_payments is 'Stripe charges that collected something';
comment on column analytics.mart_revenue_reconciliation.stripe_amount is 'What they collected, before refunds';
comment on column analytics.mart_revenue_reconciliation.difference is 'orders_revenue - stripe_amount';
comment on column analytics.mart_revenue_reconciliation.other_revenue is 'Part of orders_revenue that was paid otherwise, by bank transfer for example';
comment on column analytics.mart_revenue_reconciliation.cancelled_amount is 'Part of stripe_amount whose order was cancelled after it was paid';
comment on column analytics.mart_revenue_reconciliation.unmatched_payments is 'Charges among them whose order the application does not have, or not within 31 days';
comment on column analytics.mart_revenue_reconciliation.unmatched_amount is 'Part of stripe_amount of these';
comment on column analytics.mart_revenue_reconciliation.unexplained is 'What is left of the difference: 0 when of every order was collected what it cost';
