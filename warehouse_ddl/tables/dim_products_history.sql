-- Generated from transforms/dimensions/dim_products_history.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists analytics.dim_products_history (
    product_id bigint not null,
    valid_from timestamp with time zone not null,
    valid_to timestamp with time zone,
    prev_to timestamp with time zone,
    is_current boolean not null,
    name text,
    category_id integer,
    unit_price_usd numeric(12,2),
    is_active boolean,
    is_deleted boolean not null,
    constraint dim_products_history_pkey primary key (product_id, valid_from),
    constraint dim_products_history_valid_to_key unique (product_id, valid_to),
    constraint dim_products_history_prev_to_key unique nulls not distinct (product_id, prev_to) deferrable initially deferred,
    constraint dim_products_history_order check (prev_to <= valid_from and valid_from < valid_to),
    constraint dim_products_history_chain foreign key (product_id, prev_to) references analytics.dim_products_history (product_id, valid_to) deferrable initially deferred
);
comment on table analytics.dim_products_history is 'One row per product and time in which nothing that is tracked changed, its US list price included.';
comment on column analytics.dim_products_history.product_id is 'Identifies the product everywhere';
comment on column analytics.dim_products_history.valid_from is 'From when the row holds (UTC): the change in the application; of a deletion that no change tells, when it was found';
comment on column analytics.dim_products_history.valid_to is 'Until before when it holds (UTC); null for the current row';
comment on column analytics.dim_products_history.prev_to is 'valid_to of the row before, which is this row''s valid_from; null for the first';
comment on column analytics.dim_products_history.is_current is 'Whether no row follows: what is announced for later has a row of its own';
comment on column analytics.dim_products_history.name is 'Name of the product then';
comment on column analytics.dim_products_history.category_id is 'Category it was sold under then';
comment on column analytics.dim_products_history.unit_price_usd is 'List price then, in US dollars; null when it had none';
comment on column analytics.dim_products_history.is_active is 'Whether it could be ordered then';
comment on column analytics.dim_products_history.is_deleted is 'Whether the application had no such product any more';
