/* ---
kind: accuracy
severity: warning
description: An event happened between 2015 and 2035, the years that dim_date covers.
row_level: true
--- */
select event_id, event_time
from fct_events
where event_time < timestamptz '2015-01-01 00:00:00+00' or event_time >= timestamptz '2036-01-01 00:00:00+00'
