-- Generated from transforms/marts/mart_email_engagement.sql by `python -m warehouse_ddl`. Change that file, then run it again.

create table if not exists analytics.mart_email_engagement (
    date date not null,
    requests bigint,
    sent bigint not null,
    delivered bigint not null,
    opens bigint,
    opened bigint,
    clicks bigint,
    clicked bigint,
    bounced bigint,
    blocked bigint,
    deferred bigint,
    spam_reports bigint,
    unsubscribes bigint,
    delivery_rate double precision,
    open_rate double precision,
    click_rate double precision,
    constraint mart_email_engagement_pkey primary key (date)
);
comment on table analytics.mart_email_engagement is 'One row per day of SendGrid''s statistics, from the first on which an e-mail was requested.';
comment on column analytics.mart_email_engagement.date is 'Day the statistics are about, in SendGrid''s time (UTC)';
comment on column analytics.mart_email_engagement.requests is 'E-mails that were asked for';
comment on column analytics.mart_email_engagement.sent is 'E-mails SendGrid took on';
comment on column analytics.mart_email_engagement.delivered is 'E-mails the receiving servers took';
comment on column analytics.mart_email_engagement.opens is 'Openings, repeated ones counted';
comment on column analytics.mart_email_engagement.opened is 'Recipients who opened';
comment on column analytics.mart_email_engagement.clicks is 'Clicks on links, repeated ones counted';
comment on column analytics.mart_email_engagement.clicked is 'Recipients who clicked';
comment on column analytics.mart_email_engagement.bounced is 'E-mails whose address does not exist';
comment on column analytics.mart_email_engagement.blocked is 'E-mails refused for a reason that may pass';
comment on column analytics.mart_email_engagement.deferred is 'Attempts put off by receiving servers';
comment on column analytics.mart_email_engagement.spam_reports is 'Recipients who called it spam';
comment on column analytics.mart_email_engagement.unsubscribes is 'Recipients who want no more';
comment on column analytics.mart_email_engagement.delivery_rate is 'delivered / sent; null when nothing was sent';
comment on column analytics.mart_email_engagement.open_rate is 'opened / delivered; null when nothing was delivered';
comment on column analytics.mart_email_engagement.click_rate is 'clicked / delivered; null when nothing was delivered';
