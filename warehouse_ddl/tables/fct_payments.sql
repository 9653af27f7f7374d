-- Generated from transforms/facts/fct_payments.sql by `python -m warehouse_ddl`. Change that file, then run it again.
-- Each leaf has these indexes, one that the stream writes into once it is sealed:
--   idx_payments_order (order_id)
--   idx_payments_user (user_id)

create table if not exists analytics.fct_payments (
    payment_id text not null,
    order_id uuid,
    user_id bigint,
    customer_id text,
    amount_minor bigint not null,
    amount_captured_minor bigint not null,
    currency text not null,
    status text not null,
    payment_method text,
    is_disputed boolean not null,
    amount_refunded_minor bigint not null,
    fee_minor bigint,
    fee_currency text,
    occurred_at timestamp with time zone not null
) partition by range (occurred_at);
comment on table analytics.fct_payments is 'One row per Stripe charge, as it last was.';
comment on column analytics.fct_payments.payment_id is 'Stripe charge (ch_…)';
comment on column analytics.fct_payments.order_id is 'Order that is paid, as the application told Stripe; null when it did not';
comment on column analytics.fct_payments.user_id is 'User who placed the order; null when the charge belongs to no order we know of the 31 days around it';
comment on column analytics.fct_payments.customer_id is 'Stripe customer (cus_…); null for a guest';
comment on column analytics.fct_payments.amount_minor is 'Amount charged or only authorised so far, in minor units';
comment on column analytics.fct_payments.amount_captured_minor is 'Amount that was collected, in minor units';
comment on column analytics.fct_payments.currency is 'ISO 4217 code of the amounts';
comment on column analytics.fct_payments.status is 'succeeded, pending or failed';
comment on column analytics.fct_payments.payment_method is 'How it was paid: card, …';
comment on column analytics.fct_payments.is_disputed is 'Whether the customer''s bank ever objected';
comment on column analytics.fct_payments.amount_refunded_minor is 'Amount given back so far, in minor units';
comment on column analytics.fct_payments.fee_minor is 'What Stripe kept, in minor units of fee_currency; null while it is not booked';
comment on column analytics.fct_payments.fee_currency is 'ISO 4217 code of the fee: the currency of the balance';
comment on column analytics.fct_payments.occurred_at is 'When the customer was charged (UTC)';
