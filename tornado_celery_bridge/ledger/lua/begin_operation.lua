-- begin_operation: note what is to be done with all jobs that a filter fits. Processes carry it on, step by step.
-- Of each owner the last operations are kept.
-- KEYS: operation:{operation_id}, operations, operations:of:{owner}, operations:open
-- ARGV: prefix, operation_id, owner, action, filter, asked, dry_run, grace, by, kept, lease
-- Answers: whether it has begun; if not, all operations that are kept of the owner are under way
--   filter: as it is stored; asked: as select takes it. grace: of a cancel, as cancel takes it. by: who carries on what
--   the owner may do. kept: how many of an owner are. lease: ms for which nobody else carries it on.
-- include: operation

local mine, all, time = prefix .. 'operations:of:' .. owner, prefix .. 'operations', now()
while redis.call('ZCARD', mine) >= tonumber(kept) do
  local oldest
  for _, each in ipairs(redis.call('ZRANGE', mine, 0, -1)) do
    take_operation(each)
    if redis.call('HGET', operation, 'state') ~= 'RUNNING' then oldest = each break end
  end
  if not oldest then return 0 end
  redis.call('DEL', operation)
  redis.call('ZREM', mine, oldest)
  redis.call('ZREM', all, oldest)
end
local total
for _, name in ipairs(cjson.decode(asked).indexes) do
  local size = redis.call('ZCARD', index(name))
  if not total or size < total then total = size end
end
take_operation(operation_id)
redis.call('HSET', operation, 'action', action, 'owner', owner, 'filter', filter, 'asked', asked, 'dry_run', dry_run,
  'grace', grace, 'by', by, 'state', 'RUNNING', 'created_at', time, 'total', total, 'looked', 0, 'matched', 0,
  'done', 0, 'newest', '', 'after', '')
redis.call('ZADD', mine, time, operation_id)
redis.call('ZADD', all, time, operation_id)
redis.call('ZREMRANGEBYSCORE', all, '-inf', time - 30 * 86400000)
hold_operation(lease)
return 1
