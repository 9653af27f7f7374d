-- Generated from transforms/dimensions/dim_currencies.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists analytics.dim_currencies (
    currency text not null,
    minor_digits integer,
    minor_units bigint,
    constraint dim_currencies_pkey primary key (currency)
);
comment on table analytics.dim_currencies is 'The one place that says how many decimals an amount in minor units has. A currency that is not listed has two. One row per currency whose minor unit is not a hundredth of the major one.';
comment on column analytics.dim_currencies.currency is 'ISO 4217 code';
comment on column analytics.dim_currencies.minor_digits is 'Decimals of the major unit: an amount is minor units / 10^minor_digits';
comment on column analytics.dim_currencies.minor_units is 'Minor units in one major unit';
