-- Generated from transforms/dimensions/dim_products.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists analytics.dim_products (
    product_id bigint not null,
    sku text,
    name text,
    category_id integer,
    category_name text,
    supplier_id integer,
    supplier_name text,
    tags text[],
    unit_price_usd numeric(12,2),
    is_active boolean,
    created_at timestamp with time zone,
    updated_at timestamp with time zone,
    is_deleted boolean not null,
    is_inferred boolean not null,
    constraint dim_products_pkey primary key (product_id)
);
create index if not exists idx_products_category on analytics.dim_products (category_name);
comment on table analytics.dim_products is 'One row per product that anything refers to, also deleted ones and those that have not arrived yet.';
comment on column analytics.dim_products.product_id is 'Identifies the product everywhere';
comment on column analytics.dim_products.sku is 'Stock keeping unit, unique among products that are sold';
comment on column analytics.dim_products.name is 'Name of the product';
comment on column analytics.dim_products.category_id is 'Category it is sold under';
comment on column analytics.dim_products.category_name is 'Name of that category';
comment on column analytics.dim_products.supplier_id is 'Supplier it comes from';
comment on column analytics.dim_products.supplier_name is 'Name of that supplier';
comment on column analytics.dim_products.tags is 'Words it is found by';
comment on column analytics.dim_products.unit_price_usd is 'List price that stands until further notice, in US dollars; null when it has none, or only one whose end is announced';
comment on column analytics.dim_products.is_active is 'Whether it can be ordered; null for inferred products';
comment on column analytics.dim_products.created_at is 'When it was entered into the catalogue (UTC); null for inferred products';
comment on column analytics.dim_products.updated_at is 'When it last changed in the application (UTC)';
comment on column analytics.dim_products.is_deleted is 'Whether the application no longer has it; its last values are kept, facts still join';
comment on column analytics.dim_products.is_inferred is 'Whether only orders mention it so far; repaired when it arrives';
