-- queues: notes which jobs have their message in which queue.
-- include: job

-- Whether the job waits for a message: to begin, or to go on by what takes its task's place.
local function waits(state)
  return not ENDED[state] and (bucket(state) ~= 'STARTED' or redis.call('HEXISTS', job, 'handed_on') == 1)
end

local function queue_name()
  local known = redis.call('HMGET', job, 'queue', 'priority')
  return known[1] .. ':' .. (known[2] or '')
end

-- Note that the job's message is in its queue from this time on. *name*: of the queue, where it is known.
local function enqueued(at, name)
  name = name or queue_name()
  redis.call('ZADD', prefix .. 'queued:' .. name, at, pack(id))
  redis.call('HSETNX', prefix .. 'reached', name, 0)
end

-- Note that the job's message is in its queue no more. In a queue that has no jobs none can be overtaken. Return whether
-- it was there.
local function dequeued(name)
  name = name or queue_name()
  local was_there = redis.call('ZREM', prefix .. 'queued:' .. name, pack(id)) == 1
  if redis.call('EXISTS', prefix .. 'queued:' .. name) == 0 then redis.call('HDEL', prefix .. 'reached', name) end
  return was_there
end

-- Note where the job's next message goes: another queue, or another priority, than the one before.
local function goes_to(queue, priority)
  if redis.call('HGET', job, 'queue') == queue and priority == '-1' then return end
  dequeued()
  redis.call('HSET', job, 'queue', queue)
  if priority == '' then
    redis.call('HDEL', job, 'priority')
  elseif priority ~= '-1' then
    redis.call('HSET', job, 'priority', priority)
  end
end
