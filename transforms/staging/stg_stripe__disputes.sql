/* ---
grain:     one row per objection of a customer's bank to a charge, as it last was
key:       [dispute_id]
write:     merge
by_key:    {raw_stripe__disputes: [id], stg_stripe__events: [object_id]}
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [amount_minor, currency, reason, status, created_at]
  - not_null: [payment_id]
--- */
with versions as (
    select id, object, window_end - interval 1 hour as known_at, _landed_at as landed_at, _seq as landed_seq
    from raw_stripe__disputes
    union all
    select object_id, object, occurred_at, landed_at, landed_seq
    from stg_stripe__events
    where object_type = 'dispute'
),

-- What an event holds is as of the event, what a list showed as of an hour before its read began: Stripe's clock and ours are not one, and an event
-- that were taken for older than a list would be lost for ever, while a list that is taken for older than an event is made good by the next event.
-- When it landed says nothing: a dead letter of the list that is replayed shows what was so when it was read (window_end), however late it lands.
-- Stripe lists the newest first: of two in one second the one that came first is newer.
latest as (
    select
        id,
        from_json(object, '{
            "amount": "BIGINT", "currency": "VARCHAR", "status": "VARCHAR", "charge": "VARCHAR", "reason": "VARCHAR",
            "evidence_details": {"due_by": "BIGINT"}, "created": "BIGINT"
        }') as dispute
    from versions
    qualify row_number() over (partition by id order by known_at desc, landed_at desc, landed_seq) = 1
)

select
    id::varchar as dispute_id, -- Stripe dispute (dp_…)
    dispute.charge::varchar as payment_id, -- Stripe charge it is about
    dispute.amount::bigint as amount_minor, -- Amount in dispute, in minor units
    upper(dispute.currency)::varchar as currency, -- ISO 4217 code of the amounts
    dispute.reason::varchar as reason, -- Why the bank objects, in Stripe's words
    dispute.status::varchar as status, -- needs_response, under_review, won, lost, or a warning_… of them
    to_timestamp(dispute.evidence_details.due_by)::timestamptz as evidence_due_at, -- Until when evidence can be given (UTC)
    to_timestamp(dispute.created)::timestamptz as created_at -- When Stripe made it (UTC)
from latest
