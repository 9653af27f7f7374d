"""The charts of the dashboards, declared once: the portal draws them, the lineage ends in them.

Each is PostgreSQL over what is published; what it shows is what its SQL says and nothing else. The SQL gives
all days and all currencies: a range of dates and a currency are chosen by who looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from transforms import relations
from transforms.contract import ContractError

DASHBOARD = "dashboard"
"""Charts stand in the lineage as `dashboard.<name>`."""


@dataclass(frozen=True)
class Chart:
    """One chart. Every column it speaks of is one that `sql` gives.

    `rows` is what stands behind a point: PostgreSQL with the columns of `x`, `by` and `currency` as
    parameters of psycopg (`%(date)s`), values taken from the row of the point.
    """

    name: str
    title: str
    description: str
    kind: Literal["line", "bar", "stacked", "funnel", "heatmap"]
    unit: Literal["money", "count", "share"]
    """Money is in major units of `currency`; a share is between 0 and 1; what is counted `measures` say."""
    x: str
    """Column of the horizontal axis: a date, or the number of a week in a heatmap."""
    measures: Mapping[str, str]
    """Columns that are drawn, each with its label. A funnel has its steps, in order."""
    sql: str
    rows: str
    by: str | None = None
    """Column that parts a measure into series; the vertical axis of a heatmap."""
    currency: str | None = None
    """Column that holds the currency: one of them is shown at a time, they are never added."""

    @property
    def points(self) -> tuple[str, ...]:
        """Columns that name a point: the parameters of `rows`."""
        return tuple(column for column in (self.x, self.by, self.currency) if column is not None)


def chart(name: str) -> Chart:
    """The chart of that name. Raises ContractError, naming what is close, when there is none."""
    known = {chart.name: chart for chart in CHARTS}
    if name not in known:
        raise ContractError(f"There is no chart {name}.{relations.close(name, known)}")
    return known[name]


CHARTS = (
    Chart(
        name="revenue_chart",
        title="Revenue by day, against Stripe",
        description="What the orders of a day bring in, cancelled ones left out, beside what Stripe "
        "collected for the orders of that day. Gross on both sides. Orders that nobody has paid yet, or that "
        "are paid otherwise, are revenue and not in Stripe; unexplained is what no such reason accounts for.",
        kind="line",
        unit="money",
        x="date",
        measures={
            "revenue": "Orders",
            "stripe_amount": "Stripe",
            "refunded_amount": "Refunds",
            "unexplained": "Unexplained",
        },
        currency="currency",
        sql="""
select
    coalesce(booked.date, collected.date) as date,
    coalesce(booked.currency, collected.currency) as currency,
    coalesce(booked.revenue, 0) as revenue,
    coalesce(collected.stripe_amount, 0) as stripe_amount,
    coalesce(booked.refunded_amount, 0) as refunded_amount,
    coalesce(collected.unexplained, 0) as unexplained
from analytics.mv_daily_revenue as booked
full join analytics.mart_revenue_reconciliation as collected
    on booked.date = collected.date and booked.currency = collected.currency
order by date, currency""",
        rows="""
select
    orders.order_id,
    orders.created_at as occurred_at,
    orders.status,
    orders.revenue,
    payments.payment_id,
    payments.amount_captured_minor as stripe_amount_minor
from analytics.fct_orders as orders
left join analytics.fct_payments as payments
    on orders.order_id = payments.order_id
    and payments.status = 'succeeded'
    and payments.amount_captured_minor > 0
where orders.order_date = %(date)s and orders.currency = %(currency)s
union all
select
    payments.order_id, payments.occurred_at, null, null, payments.payment_id, payments.amount_captured_minor
from analytics.fct_payments as payments
where payments.status = 'succeeded'
    and payments.amount_captured_minor > 0
    and payments.currency = %(currency)s
    and payments.occurred_at >= %(date)s::timestamp at time zone 'UTC'
    and payments.occurred_at < (%(date)s::date + 1)::timestamp at time zone 'UTC'
    and not exists (select from analytics.fct_orders as orders where orders.order_id = payments.order_id)
order by occurred_at, order_id, payment_id""",
    ),
    Chart(
        name="active_users",
        title="Daily, weekly and monthly active users",
        description="Signed-in users with at least one event that day (UTC), in the 7 days and in the 30 "
        "days that end with it, each user once.",
        kind="line",
        unit="count",
        x="date",
        measures={
            "daily_active_users": "Day",
            "weekly_active_users": "7 days",
            "monthly_active_users": "30 days",
        },
        # A user counts from an active day on until it is out of the window or another active day takes over:
        # one pass over the days of users, where a join of each day with the 30 before it takes thirty.
        sql="""
with active as (
    select
        date,
        lead(date) over (partition by user_id order by date) as next_date
    from analytics.mart_user_activity
),

changes as (
    select date, 1 as weekly, 1 as monthly from active
    union all
    select least(date + 7, next_date), -1, 0 from active
    union all
    select least(date + 30, next_date), 0, -1 from active
    union all
    select date, 0, 0 from analytics.fct_daily_active_users
),

days as (
    select
        date,
        sum(sum(weekly)) over (order by date) as weekly,
        sum(sum(monthly)) over (order by date) as monthly
    from changes
    group by date
)

select
    daily.date,
    daily.daily_active_users,
    days.weekly::bigint as weekly_active_users,
    days.monthly::bigint as monthly_active_users
from analytics.fct_daily_active_users as daily
inner join days on daily.date = days.date
order by daily.date""",
        rows="""
select user_id, events, sessions, session_seconds, first_event_at, last_event_at
from analytics.mart_user_activity
where date = %(date)s
order by events desc, user_id""",
    ),
    Chart(
        name="signup_funnel",
        title="From signing up to ordering again",
        description="Users by the day they signed up, and how many of them have come how far until now. Each "
        "step counts those who took all the steps before it. Cancelled orders do not count.",
        kind="funnel",
        unit="count",
        x="signup_date",
        measures={
            "signed_up": "Signed up",
            "active": "Used the product",
            "ordered": "Ordered",
            "paid": "Paid",
            "ordered_again": "Ordered again",
        },
        sql="""
with buyers as (
    select
        user_id,
        count(*) as orders,
        count(*) filter (where status in ('paid', 'shipped', 'delivered', 'refunded')) as paid_orders
    from analytics.fct_orders
    where status <> 'cancelled'
    group by user_id
)

select
    users.signup_date,
    count(*) as signed_up,
    count(activity.user_id) as active,
    count(*) filter (where activity.user_id is not null and buyers.orders > 0) as ordered,
    count(*) filter (where activity.user_id is not null and buyers.paid_orders > 0) as paid,
    count(*) filter (
        where activity.user_id is not null and buyers.paid_orders > 0 and buyers.orders > 1
    ) as ordered_again
from analytics.dim_users as users
left join analytics.mv_user_activity as activity on users.user_id = activity.user_id
left join buyers on users.user_id = buyers.user_id
where users.signup_date is not null
group by users.signup_date
order by users.signup_date""",
        rows="""
select users.user_id, users.plan, users.country, activity.active_days, count(orders.order_id) as orders
from analytics.dim_users as users
left join analytics.mv_user_activity as activity on users.user_id = activity.user_id
left join analytics.fct_orders as orders on users.user_id = orders.user_id and orders.status <> 'cancelled'
where users.signup_date = %(signup_date)s
group by users.user_id, users.plan, users.country, activity.active_days
order by users.user_id""",
    ),
    Chart(
        name="retention",
        title="Retention by cohort",
        description="Users by the week they signed up (from Monday, UTC), and the share of them who were "
        "active in each week since. Week 0 is the one of signing up; the newest week is not over yet.",
        kind="heatmap",
        unit="share",
        x="week",
        by="cohort_week",
        measures={"retention": "Share of the cohort that was active"},
        sql="""
with members as (
    select user_id, date_trunc('week', signup_date)::date as cohort_week
    from analytics.dim_users
    where signup_date is not null
),

sizes as (
    select cohort_week, count(*) as cohort_users
    from members
    group by cohort_week
),

seen as (
    select
        members.cohort_week,
        activity.user_id,
        (date_trunc('week', activity.date)::date - members.cohort_week) / 7 as week
    from analytics.mart_user_activity as activity
    inner join members on activity.user_id = members.user_id
    where activity.date >= members.cohort_week
    group by members.cohort_week, activity.user_id, week
)

select
    sizes.cohort_week,
    seen.week,
    sizes.cohort_users,
    count(*) as active_users,
    round(count(*)::numeric / sizes.cohort_users, 4) as retention
from seen
inner join sizes on seen.cohort_week = sizes.cohort_week
group by sizes.cohort_week, seen.week, sizes.cohort_users
order by sizes.cohort_week, seen.week""",
        rows="""
select users.user_id, users.signup_date, count(*) as active_days, sum(activity.events) as events
from analytics.dim_users as users
inner join analytics.mart_user_activity as activity on users.user_id = activity.user_id
where date_trunc('week', users.signup_date)::date = %(cohort_week)s
    and date_trunc('week', activity.date)::date = %(cohort_week)s + 7 * %(week)s
group by users.user_id, users.signup_date
order by users.user_id""",
    ),
    Chart(
        name="events_by_type",
        title="Events by type",
        description="Events per day (UTC) of users and visitors, by what happened.",
        kind="stacked",
        unit="count",
        x="date",
        by="event_type",
        measures={"events": "Events"},
        sql="""
select date, event_type, events, active_users
from analytics.mart_daily_event_types
order by date, event_type""",
        rows="""
select event_id, event_time, user_id, page, session_id
from analytics.fct_events
where event_type = %(event_type)s
    and event_time >= %(date)s::timestamp at time zone 'UTC'
    and event_time < (%(date)s::date + 1)::timestamp at time zone 'UTC'
order by event_time, event_id""",
    ),
    Chart(
        name="email_engagement",
        title="E-mail engagement",
        description="Of the e-mails of a day, the share that arrived; of these, the share of recipients who "
        "opened and who clicked. As SendGrid counts them.",
        kind="line",
        unit="share",
        x="date",
        measures={"delivery_rate": "Delivered", "open_rate": "Opened", "click_rate": "Clicked"},
        sql="""
select date, sent, delivered, opened, clicked, delivery_rate, open_rate, click_rate
from analytics.mart_email_engagement
order by date""",
        rows="""
select message_id, user_id, recipient_domain, status, opens, clicks, first_event_at, last_event_at
from analytics.fct_emails
where first_event_at >= %(date)s::timestamp at time zone 'UTC'
    and first_event_at < (%(date)s::date + 1)::timestamp at time zone 'UTC'
order by first_event_at, message_id""",
    ),
)
