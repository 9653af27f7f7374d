-- What the portal reads by time, whichever table it is of.

create index if not exists idx_check_result_time on ops.check_result (checked_at);
