/* ---
grain:     one row per user that anything refers to, also deleted ones and those who have not arrived yet
key:       [user_id]
write:     merge
by_key:    {stg_app__users: [user_id], raw_app__users: [id]}
mentioned_by: {raw_app__orders: user_id, stg_events__*: user_id}
owner:     data-team
freshness: 1 hour
pii:       [email, name]
indexes:
  idx_users_signup_date: [signup_date]
expect:
  - not_null: [is_deleted, is_inferred]
  - accepted_values: {column: plan, values: [free, pro, team]}
    severity: warning
  - sql:
      name: deleted_users_keep_no_personal_data
      query: select * from dim_users where is_deleted and (email is not null or name is not null)
--- */
-- Mostly nobody: where their keys are asked for first, no record has to be taken apart.
with gone as (
    select distinct id
    from raw_app__users
    where id not in (select user_id from stg_app__users)
),

-- The last values also where they are null: the application may have taken them out before.
deleted as (
    select
        id as user_id,
        arg_max_null(created_at, (_landed_at, _seq)) filter (where _op <> 'd') as created_at,
        arg_max_null(nullif(upper(trim(country)), ''), (_landed_at, _seq)) filter (where _op <> 'd') as country,
        arg_max_null(plan, (_landed_at, _seq)) filter (where _op <> 'd') as plan,
        arg_max(case when _op = 'd' then coalesce(_changed_at, _landed_at) else updated_at end, (_landed_at, _seq)) as updated_at
    from raw_app__users
    inner join gone using (id)
    group by id
),

known as (
    select user_id, email, name, country, plan, marketing_opt_in, created_at, updated_at, false as is_deleted, false as is_inferred
    from stg_app__users
    union all
    select user_id, null, null, country, plan, null, created_at, updated_at, true, false
    from deleted
),

-- Every order ever landed is asked, also those deleted since: a member once inferred stays one.
mentioned as (
    select user_id from raw_app__orders
    union
    select user_id from stg_events__user_events
    union
    select user_id from stg_events__page_views
    union
    select user_id from stg_events__clicks
),

members as (
    select * from known
    union all by name
    select user_id, false as is_deleted, true as is_inferred
    from mentioned
    where user_id is not null and user_id not in (select user_id from known)
)

select
    user_id::bigint as user_id, -- Identifies the user everywhere
    email::varchar as email, -- E-mail address as the user wrote it; null for deleted and inferred users
    name::varchar as name, -- Name in lower case; null for deleted and inferred users
    country::varchar as country, -- ISO 3166 code of the country the user lives in
    plan::varchar as plan, -- Plan the user is on: free, pro or team; of a deleted user the last one
    marketing_opt_in::boolean as marketing_opt_in, -- Whether the user agreed to marketing e-mail; null for deleted and inferred users
    created_at::date as signup_date, -- Day the user signed up (UTC); null for inferred users
    created_at::timestamptz as created_at, -- When the user signed up (UTC); null for inferred users
    updated_at::timestamptz as updated_at, -- When the user last changed in the application, or was found deleted (UTC)
    is_deleted::boolean as is_deleted, -- Whether the application no longer has the user; facts still join
    is_inferred::boolean as is_inferred -- Whether only orders or events mention the user so far; repaired when the user arrives
from members
