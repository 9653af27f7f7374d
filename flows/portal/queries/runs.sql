-- name: runs
select
    run_id,
    flow,
    state,
    started_at,
    finished_at,
    coalesce(
        (summary ->> 'seconds')::numeric, nullif(round(extract(epoch from finished_at - started_at)), 0)
    ) as seconds,
    (summary ->> 'checks')::bigint as checks,
    (summary ->> 'checks_passed')::bigint as checks_passed,
    (
        select coalesce(sum(landed.value::bigint), 0) from jsonb_each_text(summary -> 'landed') as landed
    )::bigint as rows_landed,
    (
        select coalesce(sum(jsonb_array_length(tables.value -> 'windows')), 0)
        from jsonb_each(summary -> 'tables') as tables
    )::bigint as partitions,
    (summary ->> 'dead_letters')::bigint as dead_letters,
    jsonb_array_length(summary -> 'failures') as failures,
    jsonb_array_length(summary -> 'warnings') as warnings,
    coalesce(summary -> 'failures' ->> 0, summary -> 'warnings' ->> 0) as said
from ops.run
where started_at > :as_of - interval '30 days'
order by started_at desc, run_id
limit 200;

-- name: published
with runs as (
    select run_id, flow, started_at
    from ops.run
    where started_at > :as_of - interval '30 days'
    order by started_at desc
    limit 30
)

select
    runs.run_id,
    runs.flow,
    runs.started_at,
    ledger.layer,
    ledger.table_name,
    count(*) as partitions,
    sum(ledger.row_count)::bigint as row_count,
    min(ledger.partition) as first_partition,
    max(ledger.partition) as last_partition
from runs
inner join ops.ledger as ledger on runs.run_id = ledger.run_id and ledger.kind = 'publish'
group by runs.run_id, runs.flow, runs.started_at, ledger.layer, ledger.table_name
order by runs.started_at desc, runs.run_id, partitions desc, ledger.table_name;

-- name: steps
with latest as (
    select run_id, flow, started_at, summary
    from ops.run
    where jsonb_typeof(summary -> 'steps') = 'object' and summary -> 'steps' <> '{}'
    order by started_at desc
    limit 1
)

select latest.run_id, latest.flow, latest.started_at, steps.key as step, steps.value::numeric as seconds
from latest
cross join jsonb_each_text(latest.summary -> 'steps') as steps
order by seconds desc, step
limit 24;
