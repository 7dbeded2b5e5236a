-- queues: notes which jobs have their message in which queue.
-- include: job

local function queue_name()
  local known = redis.call('HMGET', job, 'queue', 'priority')
  return known[1] .. ':' .. (known[2] or '')
end

-- Note that the job's message is in its queue from this time on.
local function enqueued(at)
  local name = queue_name()
  redis.call('ZADD', prefix .. 'queued:' .. name, at, pack(id))
  redis.call('HSETNX', prefix .. 'reached', name, 0)
end

-- Note that the job's message is in its queue no more. In a queue that has no jobs none can be overtaken.
local function dequeued()
  local name = queue_name()
  redis.call('ZREM', prefix .. 'queued:' .. name, pack(id))
  if redis.call('EXISTS', prefix .. 'queued:' .. name) == 0 then redis.call('HDEL', prefix .. 'reached', name) end
end
