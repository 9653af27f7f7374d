-- Generated from transforms/facts/fct_daily_active_users.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists analytics.fct_daily_active_users (
    date date not null,
    daily_active_users bigint not null,
    constraint fct_daily_active_users_pkey primary key (date)
);
comment on table analytics.fct_daily_active_users is 'One row per day with at least one event.';
comment on column analytics.fct_daily_active_users.date is 'Day (UTC)';
comment on column analytics.fct_daily_active_users.daily_active_users is 'Signed-in users with at least one event that day; 0 when there were only visitors';
