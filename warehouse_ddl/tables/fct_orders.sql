-- Generated from transforms/facts/fct_orders.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists analytics.fct_orders (
    order_id uuid not null,
    user_id bigint not null,
    product_id bigint not null,
    order_date date not null,
    quantity integer not null,
    revenue numeric(10,2) not null,
    discount_amount numeric(12,2),
    currency text not null,
    coupon_code text,
    status text not null,
    created_at timestamp with time zone not null,
    updated_at timestamp with time zone,
    constraint fct_orders_pkey primary key (order_id)
);
create index if not exists idx_orders_user on analytics.fct_orders (user_id);
create index if not exists idx_orders_date on analytics.fct_orders (order_date);
alter table analytics.fct_orders drop constraint if exists fct_orders_user_id_fkey;
alter table analytics.fct_orders add constraint fct_orders_user_id_fkey foreign key (user_id) references personal.dim_users (user_id);
alter table analytics.fct_orders drop constraint if exists fct_orders_product_id_fkey;
alter table analytics.fct_orders add constraint fct_orders_product_id_fkey foreign key (product_id) references analytics.dim_products (product_id);
alter table analytics.fct_orders drop constraint if exists fct_orders_order_date_fkey;
alter table analytics.fct_orders add constraint fct_orders_order_date_fkey foreign key (order_date) references analytics.dim_date (date);
comment on table analytics.fct_orders is 'One row per order of the application, whatever its status; an order is one product line.';
comment on column analytics.fct_orders.order_id is 'Identifies the order everywhere';
comment on column analytics.fct_orders.user_id is 'User who ordered; an inferred member of dim_users until the user arrives';
comment on column analytics.fct_orders.product_id is 'Product that was ordered; an inferred member of dim_products until it arrives';
comment on column analytics.fct_orders.order_date is 'Day the order was placed (UTC)';
comment on column analytics.fct_orders.quantity is 'Pieces ordered';
comment on column analytics.fct_orders.revenue is 'What the customer pays after the discount, in major units of the currency; refunds are not taken off';
comment on column analytics.fct_orders.discount_amount is 'What the coupon took off the whole order, in major units';
comment on column analytics.fct_orders.currency is 'ISO 4217 code of revenue; amounts of different currencies are never added';
comment on column analytics.fct_orders.coupon_code is 'Coupon that was used; null for none';
comment on column analytics.fct_orders.status is 'Where the order stands: pending, paid, shipped, delivered, cancelled or refunded';
comment on column analytics.fct_orders.created_at is 'When the row was made in the application (UTC)';
comment on column analytics.fct_orders.updated_at is 'When the row last changed in the application (UTC)';
