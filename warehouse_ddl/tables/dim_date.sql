-- Generated from transforms/dimensions/dim_date.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists analytics.dim_date (
    date date not null,
    year integer,
    quarter integer,
    month integer,
    month_name text,
    month_start_date date,
    day_of_month integer,
    day_of_year integer,
    day_of_week integer,
    day_name text,
    iso_year integer,
    iso_week integer,
    week_start_date date,
    is_weekend boolean,
    is_month_end boolean,
    constraint dim_date_pkey primary key (date)
);
comment on table analytics.dim_date is 'One row per day from 2015 to 2035.';
comment on column analytics.dim_date.date is 'The day';
comment on column analytics.dim_date.year is 'Calendar year';
comment on column analytics.dim_date.quarter is 'Quarter of the year, 1 to 4';
comment on column analytics.dim_date.month is 'Month of the year, 1 to 12';
comment on column analytics.dim_date.month_name is 'Name of the month in English';
comment on column analytics.dim_date.month_start_date is 'First day of its month';
comment on column analytics.dim_date.day_of_month is 'Day of the month, from 1';
comment on column analytics.dim_date.day_of_year is 'Day of the year, from 1';
comment on column analytics.dim_date.day_of_week is '1 Monday to 7 Sunday (ISO 8601)';
comment on column analytics.dim_date.day_name is 'Name of the weekday in English';
comment on column analytics.dim_date.iso_year is 'Year that its ISO week belongs to';
comment on column analytics.dim_date.iso_week is 'ISO week, 1 to 53';
comment on column analytics.dim_date.week_start_date is 'Monday of its week';
comment on column analytics.dim_date.is_weekend is 'Whether it is a Saturday or Sunday';
comment on column analytics.dim_date.is_month_end is 'Whether it is the last day of its month';
