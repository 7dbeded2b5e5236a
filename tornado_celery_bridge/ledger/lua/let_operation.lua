-- let_operation: let go of an operation: another step of it may be done in *pause* ms, by anybody.
-- KEYS: operations:open, operation:{operation_id}
-- ARGV: prefix, operation_id, pause, waits
-- Answers: nothing
--   waits: what it waits for, '' for nothing.
-- include: operation

take_operation(operation_id)
if redis.call('HGET', operation, 'state') ~= 'RUNNING' then return end
hold_operation(pause)
if waits ~= '' then redis.call('HSET', operation, 'waits', waits) end
