-- Generated from transforms/marts/mart_daily_revenue.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists analytics.mart_daily_revenue (
    date date not null,
    currency text not null,
    orders bigint not null,
    revenue numeric(18,2) not null,
    cancelled_orders bigint,
    cancelled_revenue numeric(18,2),
    refunds bigint,
    refunded_amount numeric(18,2) not null,
    net_revenue numeric(18,2) not null,
    constraint mart_daily_revenue_pkey primary key (date, currency)
);
comment on table analytics.mart_daily_revenue is 'Revenue as the application books it. A day''s revenue is that of the orders placed on it; refunds count on their own day. One row per day and currency with an order or a refund.';
comment on column analytics.mart_daily_revenue.date is 'Day orders were placed or refunds made (UTC)';
comment on column analytics.mart_daily_revenue.currency is 'ISO 4217 code of the amounts; they are in major units and never added across currencies';
comment on column analytics.mart_daily_revenue.orders is 'Orders placed, cancelled ones left out';
comment on column analytics.mart_daily_revenue.revenue is 'What the customers of these orders pay; refunds are not taken off';
comment on column analytics.mart_daily_revenue.cancelled_orders is 'Orders placed that day which were cancelled, whenever that was';
comment on column analytics.mart_daily_revenue.cancelled_revenue is 'What the customers of the cancelled orders would have paid';
comment on column analytics.mart_daily_revenue.refunds is 'Refunds made that day that succeeded, whenever the order was placed';
comment on column analytics.mart_daily_revenue.refunded_amount is 'Amount of these refunds';
comment on column analytics.mart_daily_revenue.net_revenue is 'revenue - refunded_amount; below 0 when more was given back than sold';
