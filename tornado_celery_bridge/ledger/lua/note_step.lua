-- note_step: jobs that a step of an operation has found were submitted again, or not.
-- KEYS: operation:{operation_id}, operations:open
-- ARGV: prefix, operation_id, newest, after, next_newest, next_after, looked, matched, done, skipped, keep
-- Answers: whether it was noted; if not, another process has done the same step, or the operation has ended
--   newest, after: where the step has begun. skipped: JSON, how many were left out for each reason. keep: as for operate.
-- include: operation

take_operation(operation_id)
local known = redis.call('HMGET', operation, 'state', 'newest', 'after')
if known[1] ~= 'RUNNING' or known[2] ~= newest or known[3] ~= after then return 0 end
note_step(next_newest, next_after, looked, matched, done, cjson.decode(skipped), keep)
return 1
