-- let_go: removes the job from everything that would have it run.
-- include: queues, limits, copies

-- The job will not run any more, nor again.
local function let_go()
  local packed = pack(id)
  local known = redis.call('HMGET', job, 'parked', 'unique')
  dequeued()
  arrived()
  for _, name in ipairs({'held', 'later', 'outbox', 'expiring'}) do redis.call('ZREM', prefix .. name, packed) end
  redis.call('DEL', prefix .. 'message:' .. id, prefix .. 'retry:' .. id)
  if known[1] then
    redis.call('ZREM', prefix .. 'parked:' .. known[1], packed)
    drop_unused(known[1])
  end
  if known[2] then redis.call('DEL', prefix .. 'unique:' .. known[2]) end
  release()
end
