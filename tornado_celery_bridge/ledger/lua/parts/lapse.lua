-- lapse: the worker that ran the job was lost.
-- include: cancel, wait_again

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
  wait_again(state, 'lost')
end
