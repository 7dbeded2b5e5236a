-- let_go: removes the job from everything that would have it run.
-- include: queues, copies
-- include rarely: limits

-- The job will not run any more, nor again. The arguments name further keys of its that are to be removed.
local function let_go(...)
  local packed = pack(id)
  local known = redis.call('HMGET', job, 'parked', 'unique', 'slot', 'state', 'handed_on', 'expires', 'expiring', 'shared')
  redis.call('ZREM', prefix .. 'held', packed)
  -- Of one that runs there is no message; start has seen to that.
  if bucket(known[4]) ~= 'STARTED' or known[5] then
    dequeued()
    arrived()
    for _, name in ipairs({'later', 'outbox'}) do redis.call('ZREM', prefix .. name, packed) end
  end
  if known[6] or known[7] then redis.call('ZREM', prefix .. 'expiring', packed) end
  local keys = {'message:', 'retry:', ...}
  for place, name in ipairs(keys) do keys[place] = prefix .. name .. id end
  redis.call('DEL', unpack(keys))
  if known[1] then
    redis.call('ZREM', prefix .. 'parked:' .. known[1], packed)
    rare.drop_unused(known[1])
  end
  if known[2] then redis.call('DEL', prefix .. 'unique:' .. known[2]) end
  if known[3] or known[8] then rare.release() end
end
