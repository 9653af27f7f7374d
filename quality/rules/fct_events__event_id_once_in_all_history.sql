/* ---
kind: uniqueness
schedule: daily
description: >
  An event stands in the table once, whatever its time. Every run looks for duplicates over the days of
  the lookback only; this looks through all history.
--- */
select event_id, count(*) as copies
from fct_events
group by event_id
having count(*) > 1
