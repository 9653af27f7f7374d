-- Generated from transforms/dimensions/dim_users_history.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists analytics.dim_users_history (
    user_id bigint not null,
    valid_from timestamp with time zone not null,
    valid_to timestamp with time zone,
    prev_to timestamp with time zone,
    is_current boolean not null,
    country text,
    plan text,
    marketing_opt_in boolean,
    is_deleted boolean not null,
    constraint dim_users_history_pkey primary key (user_id, valid_from),
    constraint dim_users_history_valid_to_key unique (user_id, valid_to),
    constraint dim_users_history_prev_to_key unique nulls not distinct (user_id, prev_to) deferrable initially deferred,
    constraint dim_users_history_order check (prev_to <= valid_from and valid_from < valid_to),
    constraint dim_users_history_chain foreign key (user_id, prev_to) references analytics.dim_users_history (user_id, valid_to) deferrable initially deferred
);
comment on table analytics.dim_users_history is 'One row per user and time in which nothing that is tracked changed; no personal data.';
comment on column analytics.dim_users_history.user_id is 'Identifies the user everywhere';
comment on column analytics.dim_users_history.valid_from is 'From when the row holds (UTC): the change in the application; of a deletion that no change tells, when it was found';
comment on column analytics.dim_users_history.valid_to is 'Until before when it holds (UTC); null for the current row';
comment on column analytics.dim_users_history.prev_to is 'valid_to of the row before, which is this row''s valid_from; null for the first';
comment on column analytics.dim_users_history.is_current is 'Whether it holds now';
comment on column analytics.dim_users_history.country is 'ISO 3166 code of the country the user lived in; null once deleted';
comment on column analytics.dim_users_history.plan is 'Plan the user was on: free, pro or team; null once deleted';
comment on column analytics.dim_users_history.marketing_opt_in is 'Whether the user had agreed to marketing e-mail; null once deleted';
comment on column analytics.dim_users_history.is_deleted is 'Whether the application had no such user any more';
