-- Generated from transforms/marts/mart_plan_revenue.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists analytics.mart_plan_revenue (
    month_date date not null,
    currency text not null,
    plan text not null,
    orders bigint not null,
    customers bigint,
    revenue numeric(18,2) not null,
    constraint mart_plan_revenue_pkey primary key (month_date, currency, plan)
);
comment on table analytics.mart_plan_revenue is 'Orders by the plan that their user was on when the order was placed, whatever the plan is today. One row per month, currency and plan with an order.';
comment on column analytics.mart_plan_revenue.month_date is 'First day of the month in which the orders were placed (UTC)';
comment on column analytics.mart_plan_revenue.currency is 'ISO 4217 code of the amounts; they are in major units and never added across currencies';
comment on column analytics.mart_plan_revenue.plan is 'Plan the user was on when the order was placed; unknown before the first known version of the user, and once deleted';
comment on column analytics.mart_plan_revenue.orders is 'Orders placed, cancelled ones left out';
comment on column analytics.mart_plan_revenue.customers is 'Users who placed them';
comment on column analytics.mart_plan_revenue.revenue is 'What the customers of these orders pay; refunds are not taken off';
