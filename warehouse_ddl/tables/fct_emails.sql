-- Generated from transforms/facts/fct_emails.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists personal.fct_emails (
    message_id text not null,
    user_id bigint,
    recipient_hash text,
    recipient_domain text,
    subject text,
    status text not null,
    opens bigint not null,
    clicks bigint not null,
    is_opened boolean,
    is_clicked boolean,
    first_event_at timestamp with time zone,
    last_event_at timestamp with time zone not null,
    constraint fct_emails_pkey primary key (message_id)
);
create index if not exists idx_emails_user on personal.fct_emails (user_id);
create index if not exists idx_emails_last_event on personal.fct_emails (last_event_at desc);
comment on table personal.fct_emails is 'One row per e-mail that SendGrid took on, as it last was.';
comment on column personal.fct_emails.message_id is 'Identifies the e-mail at SendGrid';
comment on column personal.fct_emails.user_id is 'User who has that address now, the oldest if several do; null for others';
comment on column personal.fct_emails.recipient_hash is 'SHA-256 of the address in lower case: tells recipients apart without naming them (personal data)';
comment on column personal.fct_emails.recipient_domain is 'Domain of the address';
comment on column personal.fct_emails.subject is 'Subject line (personal data)';
comment on column personal.fct_emails.status is 'processed, delivered or not_delivered';
comment on column personal.fct_emails.opens is 'How often it was opened';
comment on column personal.fct_emails.clicks is 'How often a link in it was clicked';
comment on column personal.fct_emails.is_opened is 'Whether it was opened at least once';
comment on column personal.fct_emails.is_clicked is 'Whether a link in it was clicked at least once';
comment on column personal.fct_emails.first_event_at is 'Earliest activity that was read (UTC); the feed only tells the last one';
comment on column personal.fct_emails.last_event_at is 'Last activity (UTC)';
create or replace view analytics.fct_emails as
select
    message_id,
    user_id,
    case when (select is_full from personal.access) then recipient_hash else ('masked:' || left(encode(sha256((select key from personal.access) || convert_to(recipient_hash, 'UTF8')), 'hex'), 16))::text end as recipient_hash,
    recipient_domain,
    case when (select is_full from personal.access) then subject else ('masked:' || left(encode(sha256((select key from personal.access) || convert_to(subject, 'UTF8')), 'hex'), 16))::text end as subject,
    status,
    opens,
    clicks,
    is_opened,
    is_clicked,
    first_event_at,
    last_event_at
from personal.fct_emails;
comment on view analytics.fct_emails is 'One row per e-mail that SendGrid took on, as it last was.';
comment on column analytics.fct_emails.message_id is 'Identifies the e-mail at SendGrid';
comment on column analytics.fct_emails.user_id is 'User who has that address now, the oldest if several do; null for others';
comment on column analytics.fct_emails.recipient_hash is 'SHA-256 of the address in lower case: tells recipients apart without naming them (personal data)';
comment on column analytics.fct_emails.recipient_domain is 'Domain of the address';
comment on column analytics.fct_emails.subject is 'Subject line (personal data)';
comment on column analytics.fct_emails.status is 'processed, delivered or not_delivered';
comment on column analytics.fct_emails.opens is 'How often it was opened';
comment on column analytics.fct_emails.clicks is 'How often a link in it was clicked';
comment on column analytics.fct_emails.is_opened is 'Whether it was opened at least once';
comment on column analytics.fct_emails.is_clicked is 'Whether a link in it was clicked at least once';
comment on column analytics.fct_emails.first_event_at is 'Earliest activity that was read (UTC); the feed only tells the last one';
comment on column analytics.fct_emails.last_event_at is 'Last activity (UTC)';
