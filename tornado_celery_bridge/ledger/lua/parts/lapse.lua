-- lapse: the job's worker was lost, or does not hold the job any more.
-- include: cancel

local MAX_LOST = 3  -- a job is given up when so many of its attempts were lost with their worker
local GIVEN_UP = 'given up: ' .. MAX_LOST .. ' workers were lost while they ran it'
local DEAD = '{"type":"WorkerLostError","module":"billiard.exceptions","kind":"dead-lettered","message":"' ..
  GIVEN_UP .. '"}'

-- The job waits again, or is given up.
local function lapse(state)
  redis.call('ZREM', prefix .. 'held', pack(id))
  local known = redis.call('HMGET', job, 'cancelled', 'queue', 'task')
  count(now(), known[2], known[3], 'l')
  if known[1] then return finish(state, 'REVOKED', CANCELLED) end
  if redis.call('HINCRBY', job, 'lost', 1) >= MAX_LOST then
    redis.call('ZADD', index('dead'), redis.call('HGET', job, 'created_at'), pack(id))
    return finish(state, 'FAILURE', DEAD, 'billiard.exceptions.WorkerLostError', GIVEN_UP, '')
  end
  local time = now()
  redis.call('HSET', job, 'state', 'PENDING')
  redis.call('HDEL', job, 'token', 'started_at', 'due')  -- which of two messages it begins by is not known
  set_value('null')
  move_state(state, 'PENDING')
  enqueued(time)
  emit('state', cjson.encode({state = 'PENDING'}))
end
