-- let_go: removes the job from everything that would have it run.
-- include: queues, limits, copies

-- The job will not run any more, nor again.
local function let_go()
  local packed = pack(id)
  local known = redis.call('HMGET', job, 'slot', 'parked', 'unique')
  dequeued()
  arrived()
  for _, name in ipairs({'held', 'later', 'outbox', 'expiring'}) do redis.call('ZREM', prefix .. name, packed) end
  redis.call('DEL', prefix .. 'message:' .. id, prefix .. 'retry:' .. id)
  if known[2] then redis.call('ZREM', prefix .. 'parked:' .. known[2], packed) end
  if known[3] then redis.call('DEL', prefix .. 'unique:' .. known[3]) end
  if known[1] then release(known[1]) end
end
