-- Generated from transforms/facts/fct_refunds.sql by `python -m warehouse_ddl`. Change that file, then run it again.
-- Each leaf has these indexes, one that the stream writes into once it is sealed:
--   idx_refunds_payment (payment_id)

create table if not exists analytics.fct_refunds (
    refund_id text not null,
    payment_id text not null,
    order_id uuid,
    user_id bigint,
    amount_minor bigint not null,
    currency text not null,
    reason text,
    status text not null,
    occurred_at timestamp with time zone not null
) partition by range (occurred_at);
comment on table analytics.fct_refunds is 'One row per Stripe refund, as it last was.';
comment on column analytics.fct_refunds.refund_id is 'Stripe refund (re_…)';
comment on column analytics.fct_refunds.payment_id is 'Stripe charge that is given back';
comment on column analytics.fct_refunds.order_id is 'Order that was paid; null when the charge is unknown, or more than 186 days older';
comment on column analytics.fct_refunds.user_id is 'User who placed the order; null when the charge belongs to no order we know, or is more than 186 days older';
comment on column analytics.fct_refunds.amount_minor is 'Amount given back, in minor units';
comment on column analytics.fct_refunds.currency is 'ISO 4217 code of the amounts';
comment on column analytics.fct_refunds.reason is 'duplicate, fraudulent or requested_by_customer; null when nobody said';
comment on column analytics.fct_refunds.status is 'pending, succeeded, failed, canceled or requires_action';
comment on column analytics.fct_refunds.occurred_at is 'When the refund was made (UTC)';
