/* ---
grain:     one row per day from 2015 to 2035
key:       [date]
write:     merge
owner:     data-team
expect:
  - between: {column: day_of_week, min: 1, max: 7}
--- */
with days as (
    select unnest(generate_series(date '2015-01-01', date '2035-12-31', interval 1 day))::date as date
)

select
    date::date as date, -- The day
    year(date)::integer as year, -- Calendar year
    quarter(date)::integer as quarter, -- Quarter of the year, 1 to 4
    month(date)::integer as month, -- Month of the year, 1 to 12
    monthname(date)::varchar as month_name, -- Name of the month in English
    date_trunc('month', date)::date as month_start_date, -- First day of its month
    day(date)::integer as day_of_month, -- Day of the month, from 1
    dayofyear(date)::integer as day_of_year, -- Day of the year, from 1
    isodow(date)::integer as day_of_week, -- 1 Monday to 7 Sunday (ISO 8601)
    dayname(date)::varchar as day_name, -- Name of the weekday in English
    isoyear(date)::integer as iso_year, -- Year that its ISO week belongs to
    weekofyear(date)::integer as iso_week, -- ISO week, 1 to 53
    date_trunc('week', date)::date as week_start_date, -- Monday of its week
    (isodow(date) >= 6)::boolean as is_weekend, -- Whether it is a Saturday or Sunday
    (date = last_day(date))::boolean as is_month_end -- Whether it is the last day of its month
from days
