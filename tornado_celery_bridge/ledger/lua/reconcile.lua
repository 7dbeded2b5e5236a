-- reconcile: look for jobs whose worker or message was lost, if nobody else leads the search.
-- Lost are those whose lease is over, and those that wait for longer than GRACE in a queue that is empty, or in which
-- jobs have begun that came after them by more than that. One whose message was published MAX_COPIES times more, each
-- time within IN_A_ROW, is given up: its message leads nowhere, or to workers that don't keep this ledger.
-- KEYS: leader, held, reached
-- ARGV: prefix, me, leadership, most
-- ROWS: queues
-- Answers: the id and the message of each job to publish; then '', and the names of queues that may be empty
--   leadership: ms for which nobody else looks. queues: those that are known to be empty.
-- include: lapse, messages, each, rows

local GRACE = 8000  -- ms after which a job that others have overtaken is looked for
local IN_A_ROW = 60000  -- ms
-- After so many copies the workers are asked who has one in hand; after so many the job is given up.
local DOUBTED, MAX_COPIES = 6, 10
local WHY = 'given up: its message was published ' .. MAX_COPIES .. ' times more, and no worker has begun it. ' ..
  'See that its queue or exchange leads to a worker, and that this worker has install(app)'
local UNDELIVERED = '{"type":"OperationalError","module":"kombu.exceptions","kind":"undelivered","message":"' .. WHY ..
  '"}'
most = tonumber(most)
local leader, time, found = redis.call('GET', prefix .. 'leader'), now(), {}
if leader and leader ~= me then
  if redis.call('PTTL', prefix .. 'leader') > tonumber(leadership) then  -- the server's clock was set back
    redis.call('PEXPIRE', prefix .. 'leader', leadership)
  end
  return {}
end
redis.call('SET', prefix .. 'leader', me, 'PX', leadership)

local function publish_again()
  local known = redis.call('HMGET', job, 'queue', 'task')
  count(time, known[1], known[2], 'p')
  add_message(found)
end

local held = prefix .. 'held'
each_job(held, redis.call('ZRANGEBYSCORE', held, '-inf', time, 'LIMIT', 0, most), function(state, packed)
  if bucket(state) == 'STARTED' then
    lapse(state)
    if not ENDED[redis.call('HGET', job, 'state')] then publish_again() end
  else
    redis.call('ZREM', held, packed)
  end
end)

local empty, suspects = {}, {}
for queue in rows() do empty[queue] = true end
local reached = redis.call('HGETALL', prefix .. 'reached')
for place = 1, #reached, 2 do
  local name, queued = reached[place], prefix .. 'queued:' .. reached[place]
  local queue = string.match(name, '^(.*):[^:]*$')
  local until_then = (empty[queue] and time or tonumber(reached[place + 1])) - GRACE
  local late = redis.call('ZRANGEBYSCORE', queued, '-inf', until_then, 'LIMIT', 0, most)
  each_job(queued, late, function(state, packed)
    if waits(state) then
      if time - redis.call('ZSCORE', queued, packed) > IN_A_ROW then arrived() end
      local copies = redis.call('HINCRBY', job, 'copies', 1)
      if copies > MAX_COPIES then
        finish(state, 'FAILURE', UNDELIVERED, 'kombu.exceptions.OperationalError', WHY, '')
      else
        if copies >= DOUBTED then redis.call('SADD', prefix .. 'doubted', id) end
        redis.call('ZADD', queued, time, packed)
        publish_again()
      end
    else
      redis.call('ZREM', queued, packed)
      arrived()
    end
  end)
  local first = redis.call('ZRANGE', queued, 0, 0, 'WITHSCORES')
  if not first[1] then redis.call('HDEL', prefix .. 'reached', name) end
  if first[1] and not empty[queue] and tonumber(first[2]) < time - GRACE then
    suspects[#suspects + 1] = queue
  end
end
found[#found + 1] = ''
for _, queue in ipairs(suspects) do found[#found + 1] = queue end
return found
