/* ---
grain:     one row per Stripe customer who has not been deleted, as it last was
key:       [customer_id]
partition: {by: created_at, every: month}
write:     merge
by_key:    {raw_stripe__customers: [id], stg_stripe__events: [object_id]}
owner:     data-team
freshness: 1 hour
pii:       [email, name]
expect:
  - not_null: [created_at]
--- */
with versions as (
    select id, object, null as event_type, window_end - interval 1 hour as known_at, _landed_at as landed_at, _seq as landed_seq
    from raw_stripe__customers
    union all
    select object_id, object, event_type, occurred_at, landed_at, landed_seq
    from stg_stripe__events
    where object_type = 'customer'
),

-- What an event holds is as of the event, what a list showed as of an hour before its read began: Stripe's clock and ours are not one, and an event
-- that were taken for older than a list would be lost for ever, while a list that is taken for older than an event is made good by the next event.
-- When it landed says nothing: a dead letter of the list that is replayed shows what was so when it was read (window_end), however late it lands.
-- Stripe lists the newest first: of two in one second the one that came first is newer.
latest as (
    select
        id,
        event_type,
        from_json(object, '{
            "email": "VARCHAR", "name": "VARCHAR", "address": {"country": "VARCHAR"}, "delinquent": "BOOLEAN",
            "metadata": {"user_id": "VARCHAR"}, "created": "BIGINT"
        }') as customer
    from versions
    qualify row_number() over (partition by id order by known_at desc, landed_at desc, landed_seq) = 1
)

select
    id::varchar as customer_id, -- Stripe customer (cus_…)
    try_cast(customer.metadata.user_id as bigint)::bigint as user_id, -- User of the application; null when the application did not say
    nullif(trim(customer.email), '')::varchar as email, -- E-mail address Stripe writes to
    nullif(lower(trim(customer.name)), '')::varchar as name, -- Name in lower case
    upper(customer.address.country)::varchar as country, -- ISO 3166 code of the billing country
    customer.delinquent::boolean as is_delinquent, -- Whether the last invoice is unpaid
    to_timestamp(customer.created)::timestamptz as created_at -- When Stripe made it (UTC)
from latest
where event_type is distinct from 'customer.deleted'
