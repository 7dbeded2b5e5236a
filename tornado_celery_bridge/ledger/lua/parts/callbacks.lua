-- callbacks: which ended jobs are to call a receiver back, and when.
-- include: job

-- A job's `callback` is the delivery's id, a space and the receiver.
local function receiver_of(callback) return string.match(callback, ' (.*)') end

-- Have the job call its receiver back at this time; with nil, not at all.
local function call_back(receiver, at)
  local queue = prefix .. 'callbacks:' .. receiver
  if at then redis.call('ZADD', queue, string.format('%.0f', at), id) else redis.call('ZREM', queue, id) end
  local first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')[2]
  if first then
    redis.call('ZADD', prefix .. 'callbacks', first, receiver)
  else
    redis.call('ZREM', prefix .. 'callbacks', receiver)
  end
end
