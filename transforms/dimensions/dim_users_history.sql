/* ---
grain:     one row per user and time in which nothing that is tracked changed; no personal data
key:       [user_id, valid_from]
write:     merge
by_key:    {raw_app__users: [id]}
owner:     data-team
freshness: 1 hour
expect:
  - not_null: [is_current, is_deleted]
--- */
with landed as (
    select
        id as user_id,
        _landed_at,
        _seq,
        _registered_at,
        _lsn,
        (_op = 'd' or deleted_at is not null) as is_deleted,
        case when not is_deleted then nullif(upper(trim(country)), '') end as country,
        case when not is_deleted then plan end as plan,
        case when not is_deleted then marketing_opt_in end as marketing_opt_in,
        -- Told with a change is when the source committed it; of a row that was read the row says it, of one that
        -- was found gone only the reading. What comes later in the source's log, or was read later, is never older;
        -- a registration of the connector begins a log, after all that the one before has told.
        max(coalesce(_changed_at, case when _op = 'd' then _landed_at else updated_at end)) over (
            partition by id, _lsn is null
            order by _registered_at nulls first, _lsn, _landed_at, _seq rows unbounded preceding
        ) as valid_from
    from raw_app__users
),

versions as (
    select *, (is_deleted, country, plan, marketing_opt_in) as tracked
    from landed
    where valid_from is not null
    qualify row_number() over (
        partition by user_id, valid_from
        order by _registered_at desc nulls last, _lsn desc nulls last, _landed_at desc, _seq desc
    ) = 1
),

changes as (
    select *
    from versions
    qualify row_number() over (partition by user_id order by valid_from) = 1
        or tracked is distinct from lag(tracked) over (partition by user_id order by valid_from)
),

chained as (
    select *, lead(valid_from) over (partition by user_id order by valid_from) as valid_to
    from changes
)

select
    user_id::bigint as user_id, -- Identifies the user everywhere
    valid_from::timestamptz as valid_from, -- From when the row holds (UTC): the change in the application; of a deletion that no change tells, when it was found
    valid_to::timestamptz as valid_to, -- Until before when it holds (UTC); null for the current row
    (lag(valid_to) over (partition by user_id order by valid_from))::timestamptz as prev_to, -- valid_to of the row before, which is this row's valid_from; null for the first
    (valid_to is null)::boolean as is_current, -- Whether it holds now
    country::varchar as country, -- ISO 3166 code of the country the user lived in; null once deleted
    plan::varchar as plan, -- Plan the user was on: free, pro or team; null once deleted
    marketing_opt_in::boolean as marketing_opt_in, -- Whether the user had agreed to marketing e-mail; null once deleted
    is_deleted::boolean as is_deleted -- Whether the application had no such user any more
from chained
