-- name: summary
select
    count(*) as checks,
    count(*) filter (where passed) as passed,
    count(*) filter (where not passed) as failed,
    count(distinct table_name || '.' || rule) as rules,
    count(distinct table_name || '.' || rule) filter (where not passed) as rules_failed,
    coalesce(sum(failing_rows) filter (where not passed), 0)::bigint as failing_rows
from ops.check_result
where checked_at > :as_of - interval '30 days';

-- name: days
select
    (checked_at at time zone 'UTC')::date as date,
    count(*) filter (where passed) as passed,
    count(*) filter (where not passed and severity = 'critical') as failed_critical,
    count(*) filter (where not passed and severity <> 'critical') as failed_warning
from ops.check_result
where checked_at > :as_of - interval '30 days'
group by date
order by date;

-- name: rules
with results as (
    select
        table_name,
        rule,
        run_id,
        min(kind) as kind,
        min(severity) as severity,
        max(checked_at) as checked_at,
        bool_and(passed) as passed,
        max(failing_rows) as failing_rows,
        count(*) as checks,
        row_number() over (partition by table_name, rule order by max(checked_at) desc, run_id) as age
    from ops.check_result
    where checked_at > :as_of - interval '30 days'
    group by table_name, rule, run_id
)

select
    table_name,
    rule,
    min(kind) as kind,
    min(severity) as severity,
    bool_and(passed) filter (where age = 1) as passed,
    max(failing_rows) filter (where age = 1) as failing_rows,
    sum(checks)::bigint as checks,
    count(*) as runs,
    count(*) filter (where not passed) as runs_failed,
    max(checked_at) as checked_at,
    string_agg(case when passed then '1' else '0' end, '' order by age desc) filter (where age <= 20) as history
from results
group by table_name, rule
order by
    bool_and(passed) filter (where age = 1),
    count(*) filter (where not passed) desc,
    table_name,
    rule;

-- name: failures
select checked_at, table_name, partition, rule, kind, severity, engine, failing_rows, (observed ->> 'rows')::bigint as rows_checked
from ops.check_result
where not passed and checked_at > :as_of - interval '30 days'
order by checked_at desc, table_name, rule, partition
limit 100;

-- name: letters
select
    source || '.' || entity as entity,
    reason,
    count(*) filter (where status = 'waiting') as waiting,
    count(*) filter (where status = 'replayed') as replayed,
    count(*) filter (where status = 'discarded') as discarded,
    max(received_at) as received_at
from ops.dead_letter
group by source, entity, reason
order by waiting desc, entity, reason
limit 200;

-- name: letters_total
select
    count(*) filter (where status = 'waiting') as waiting,
    count(*) filter (where status = 'replayed') as replayed,
    count(*) as letters
from ops.dead_letter;

-- name: letters_newest
select
    left(letter_id, 12) as letter,
    source || '.' || entity as entity,
    coalesce(
        topic || ' / ' || kafka_partition || ' / ' || kafka_offset, 'batch ' || batch_id || ', row ' || seq, ''
    ) as place,
    reason,
    status,
    received_at,
    octet_length(payload) as bytes
from ops.dead_letter
order by received_at desc, letter_id
limit 50;
