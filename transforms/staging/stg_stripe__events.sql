/* ---
grain:     one row per Stripe event about a charge, refund, customer, dispute or payout, with the object as it was after the change
key:       [stripe_event_id]
# The window is that of the object: a change in November of a charge of October is a row of October.
partition: {by: object_created_at, every: month}
write:     merge
changed:   [raw_stripe__events]
by_key:    {raw_stripe__events: [id]}
owner:     data-team
freshness: 1 hour
pii:       [object]
expect:
  - not_null: [object_id, object_type, occurred_at, object_created_at]
--- */
with latest as (
    select
        *,
        from_json(object, '{
            "type": "VARCHAR", "created": "BIGINT",
            "data": {"object": {"id": "VARCHAR", "object": "VARCHAR", "created": "BIGINT"}}
        }') as event
    from raw_stripe__events
    qualify row_number() over (partition by id order by _landed_at desc, _seq desc) = 1
)

select
    id::varchar as stripe_event_id, -- Stripe event (evt_…)
    event.type::varchar as event_type, -- What happened, e.g. charge.refunded
    event.data.object.object::varchar as object_type, -- Kind of object that changed: charge, refund, …
    event.data.object.id::varchar as object_id, -- Object that changed
    json_extract(object, '$.data.object')::json as object, -- The object as it was after the change
    to_timestamp(event.data.object.created)::timestamptz as object_created_at, -- When Stripe made the object (UTC)
    to_timestamp(event.created)::timestamptz as occurred_at, -- When it changed (UTC)
    _landed_at::timestamptz as landed_at, -- When the event was read (UTC)
    _seq::bigint as landed_seq -- Its place in that landing; Stripe lists the newest first
from latest
-- What else happens (money becomes available, a card is added) no model reads, and some of these objects have neither id nor time. An event
-- that does not say what its object is stays, so that the build stops at it: Stripe always says it.
where coalesce(event.data.object.object in ('charge', 'refund', 'customer', 'dispute', 'payout'), true)
