-- callbacks: which ended jobs are to call a receiver back, and when. Each owner has receivers of their own, so that no
-- owner's hold up another's.
-- include: job

-- A job's `callback` is the delivery's id, a space, its owner, a slash and the receiver.
local function receiver_of(callback) return string.match(callback, ' (.*)') end

local function owner_of(receiver) return string.match(receiver, '^(.*)/') end

-- Note in *index* when the first of *queue* is due, under *name*.
local function note_first(index, name, queue)
  local first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')[2]
  if first then redis.call('ZADD', index, first, name) else redis.call('ZREM', index, name) end
end

-- Have the job call its receiver back at this time; with nil, not at all.
local function call_back(receiver, at)
  local queue, owner = prefix .. 'callbacks:' .. receiver, owner_of(receiver)
  if at then redis.call('ZADD', queue, string.format('%.0f', at), id) else redis.call('ZREM', queue, id) end
  note_first(prefix .. 'callbacks:of:' .. owner, receiver, queue)
  note_first(prefix .. 'callbacks', owner, prefix .. 'callbacks:of:' .. owner)
end
