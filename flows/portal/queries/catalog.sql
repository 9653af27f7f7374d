-- name: sizes
select
    states.table_name,
    sum(states.row_count)::bigint as row_count,
    -- The entry of a partitioned table at '' notes what was consumed, and is no partition.
    coalesce(nullif(count(*) filter (where states.partition <> ''), 0), count(*)) as partitions,
    sum(files.bytes)::bigint as bytes,
    min(nullif(states.partition, '')) as first_partition,
    max(nullif(states.partition, '')) as last_partition
from ops.partition_state as states
left join lateral (
    select sum((file.value ->> 'bytes')::bigint) as bytes
    from jsonb_array_elements(states.files) as file
) as files on true
group by states.table_name
order by states.table_name;

-- name: rules
select distinct on (table_name, rule)
    table_name,
    rule,
    bool_and(passed) over (partition by table_name, rule, run_id) as passed,
    checked_at
from ops.check_result
where checked_at > :as_of - interval '30 days'
order by table_name, rule, checked_at desc, passed;
