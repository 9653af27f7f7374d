/* ---
grain:     one row per product and time in which nothing that is tracked changed, its US list price included
key:       [product_id, valid_from]
write:     merge
by_key:    {raw_app__products: [id], stg_app__product_prices: [product_id]}
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [is_current, is_deleted]
  - between: {column: unit_price_usd, min: 0}
--- */
with landed as (
    select
        id as product_id,
        _landed_at,
        _seq,
        _registered_at,
        _lsn,
        (_op = 'd') as is_deleted,
        nullif(trim(name), '') as name,
        category_id,
        is_active,
        -- Told with a change is when the source committed it; of a row that was read the row says it, of one that
        -- was found gone only the reading. What comes later in the source's log, or was read later, is never older;
        -- a registration of the connector begins a log, after all that the one before has told.
        max(coalesce(_changed_at, case when _op = 'd' then _landed_at else updated_at end)) over (
            partition by id, _lsn is null
            order by _registered_at nulls first, _lsn, _landed_at, _seq rows unbounded preceding
        ) as valid_from
    from raw_app__products
),

versions as (
    select *
    from landed
    where valid_from is not null
    qualify row_number() over (
        partition by product_id, valid_from
        order by _registered_at desc nulls last, _lsn desc nulls last, _landed_at desc, _seq desc
    ) = 1
),

prices as (
    select product_id, product_price_id, valid_from, valid_to, amount
    from stg_app__product_prices
    where currency = 'USD' and (valid_to is null or valid_to > valid_from)
),

-- A row begins where the product or its price changed, but never before the product was known.
moments as (
    select product_id, valid_from from versions
    union
    select prices.product_id, unnest([prices.valid_from, prices.valid_to])
    from prices
),

-- Of prices that hold at once (an offer beside the price that stands) the one that began last counts.
priced as (
    select
        moments.product_id,
        moments.valid_from,
        arg_max(prices.amount, (prices.valid_from, prices.product_price_id)) as amount
    from moments
    inner join prices
        on moments.product_id = prices.product_id
        and moments.valid_from >= prices.valid_from
        and (prices.valid_to is null or moments.valid_from < prices.valid_to)
    group by moments.product_id, moments.valid_from
),

states as (
    select
        moments.product_id,
        moments.valid_from,
        versions.name,
        versions.category_id,
        versions.is_active,
        versions.is_deleted,
        case when not versions.is_deleted then priced.amount end as price
    from moments
    asof join versions on moments.product_id = versions.product_id and moments.valid_from >= versions.valid_from
    left join priced on moments.product_id = priced.product_id and moments.valid_from = priced.valid_from
),

tracked as (
    select *, (name, category_id, is_active, is_deleted, price) as values
    from states
),

changes as (
    select *
    from tracked
    qualify row_number() over (partition by product_id order by valid_from) = 1
        or values is distinct from lag(values) over (partition by product_id order by valid_from)
),

chained as (
    select *, lead(valid_from) over (partition by product_id order by valid_from) as valid_to
    from changes
)

select
    product_id::bigint as product_id, -- Identifies the product everywhere
    valid_from::timestamptz as valid_from, -- From when the row holds (UTC): the change in the application; of a deletion that no change tells, when it was found
    valid_to::timestamptz as valid_to, -- Until before when it holds (UTC); null for the current row
    (lag(valid_to) over (partition by product_id order by valid_from))::timestamptz as prev_to, -- valid_to of the row before, which is this row's valid_from; null for the first
    (valid_to is null)::boolean as is_current, -- Whether no row follows: what is announced for later has a row of its own
    name::varchar as name, -- Name of the product then
    category_id::integer as category_id, -- Category it was sold under then
    price::decimal(12,2) as unit_price_usd, -- List price then, in US dollars; null when it had none
    is_active::boolean as is_active, -- Whether it could be ordered then
    is_deleted::boolean as is_deleted -- Whether the application had no such product any more
from chained
