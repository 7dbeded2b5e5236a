-- end_operation: end an operation before it has come to all jobs. What it has done stays done.
-- KEYS: operation:{operation_id}, operations:open
-- ARGV: prefix, operation_id, why, keep
-- Answers: whether it was under way
--   why: what has ended it, for people. keep: as for operate.
-- include: operation

take_operation(operation_id)
if redis.call('HGET', operation, 'state') ~= 'RUNNING' then return 0 end
redis.call('HSET', operation, 'why', why)
end_operation('CANCELLED', keep)
return 1
