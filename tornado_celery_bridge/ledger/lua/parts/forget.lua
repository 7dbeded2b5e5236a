-- forget: removes the job. Return what it was, if it was there.
-- include: clock, job, callbacks

local function forget()
  local known = redis.call('HMGET', job, 'owner', 'task', 'tags', 'state', 'callback', 'blobs', 'queue', 'failure',
    'retry_of')
  local packed = pack(id)
  if not known[4] then return end
  for name in string.gmatch(known[6] or '', '%S+') do redis.call('ZADD', prefix .. 'blobs', now(), name) end
  redis.call('ZREM', index('all'), packed)
  redis.call('ZREM', index('task:' .. known[2]), packed)
  redis.call('ZREM', index('state:' .. bucket(known[4])), packed)
  redis.call('ZREM', index('owner:' .. known[1]), packed)
  redis.call('ZREM', index('dead'), packed)
  if known[8] then redis.call('ZREM', index('failure:' .. known[8]), packed) end
  for _, tag in ipairs(cjson.decode(known[3] or '[]')) do redis.call('ZREM', index('tag:' .. tag), packed) end
  for _, name in ipairs({'input:', 'value:', 'traceback:', 'checkpoint:', 'past:', 'items:'}) do
    redis.call('DEL', prefix .. name .. id)
  end
  redis.call('DEL', job, events)
  if known[5] then
    call_back(receiver_of(known[5]))
    redis.call('DEL', prefix .. 'attempts:' .. id)
  end
  return known
end
