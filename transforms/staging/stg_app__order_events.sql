/* ---
grain:     one row per change of an order's status
key:       [order_event_id]
partition: {by: occurred_at, every: month}
write:     merge
changed:   [raw_app__order_events]
by_key:    {raw_app__order_events: [id]}
passes:    [raw_app__order_events]
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [order_id, to_status, occurred_at]
--- */
with latest as (
    select *
    from raw_app__order_events
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::bigint as order_event_id, -- Identifies the change; rises with time
    order_id::uuid as order_id, -- Order that changed
    from_status::varchar as from_status, -- Status before; null for the first
    to_status::varchar as to_status, -- Status after
    actor::varchar as actor, -- Who changed it: the customer, a person or a service
    payload::json as payload, -- What the application noted with it, as an object
    occurred_at::timestamptz as occurred_at -- When it changed (UTC)
from latest
where _op <> 'd'
