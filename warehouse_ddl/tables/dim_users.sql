-- Generated from transforms/dimensions/dim_users.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists personal.dim_users (
    user_id bigint not null,
    email text,
    name text,
    country text,
    plan text,
    marketing_opt_in boolean,
    signup_date date,
    created_at timestamp with time zone,
    updated_at timestamp with time zone,
    is_deleted boolean not null,
    is_inferred boolean not null,
    constraint dim_users_pkey primary key (user_id)
);
create index if not exists idx_users_signup_date on personal.dim_users (signup_date);
comment on table personal.dim_users is 'One row per user that anything refers to, also deleted ones and those who have not arrived yet.';
comment on column personal.dim_users.user_id is 'Identifies the user everywhere';
comment on column personal.dim_users.email is 'E-mail address as the user wrote it; null for deleted and inferred users (personal data)';
comment on column personal.dim_users.name is 'Name in lower case; null for deleted and inferred users (personal data)';
comment on column personal.dim_users.country is 'ISO 3166 code of the country the user lives in';
comment on column personal.dim_users.plan is 'Plan the user is on: free, pro or team; of a deleted user the last one';
comment on column personal.dim_users.marketing_opt_in is 'Whether the user agreed to marketing e-mail; null for deleted and inferred users';
comment on column personal.dim_users.signup_date is 'Day the user signed up (UTC); null for inferred users';
comment on column personal.dim_users.created_at is 'When the user signed up (UTC); null for inferred users';
comment on column personal.dim_users.updated_at is 'When the user last changed in the application, or was found deleted (UTC)';
comment on column personal.dim_users.is_deleted is 'Whether the application no longer has the user; facts still join';
comment on column personal.dim_users.is_inferred is 'Whether only orders or events mention the user so far; repaired when the user arrives';
create or replace view analytics.dim_users as
select
    user_id,
    case when (select is_full from personal.access) then email else ('masked:' || left(encode(sha256((select key from personal.access) || convert_to(email, 'UTF8')), 'hex'), 16))::text end as email,
    case when (select is_full from personal.access) then name else ('masked:' || left(encode(sha256((select key from personal.access) || convert_to(name, 'UTF8')), 'hex'), 16))::text end as name,
    country,
    plan,
    marketing_opt_in,
    signup_date,
    created_at,
    updated_at,
    is_deleted,
    is_inferred
from personal.dim_users;
comment on view analytics.dim_users is 'One row per user that anything refers to, also deleted ones and those who have not arrived yet.';
comment on column analytics.dim_users.user_id is 'Identifies the user everywhere';
comment on column analytics.dim_users.email is 'E-mail address as the user wrote it; null for deleted and inferred users (personal data)';
comment on column analytics.dim_users.name is 'Name in lower case; null for deleted and inferred users (personal data)';
comment on column analytics.dim_users.country is 'ISO 3166 code of the country the user lives in';
comment on column analytics.dim_users.plan is 'Plan the user is on: free, pro or team; of a deleted user the last one';
comment on column analytics.dim_users.marketing_opt_in is 'Whether the user agreed to marketing e-mail; null for deleted and inferred users';
comment on column analytics.dim_users.signup_date is 'Day the user signed up (UTC); null for inferred users';
comment on column analytics.dim_users.created_at is 'When the user signed up (UTC); null for inferred users';
comment on column analytics.dim_users.updated_at is 'When the user last changed in the application, or was found deleted (UTC)';
comment on column analytics.dim_users.is_deleted is 'Whether the application no longer has the user; facts still join';
comment on column analytics.dim_users.is_inferred is 'Whether only orders or events mention the user so far; repaired when the user arrives';
