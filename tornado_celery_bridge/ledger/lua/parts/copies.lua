-- copies: how often the job's message was published again, one time after the other, and nobody began it.
-- include: job

-- A worker has its message after all: count anew.
local function arrived()
  -- Read first: after any write in a script, a full Redis lets the others pass.
  if redis.call('HEXISTS', job, 'copies') == 0 then return end
  redis.call('HDEL', job, 'copies')
  redis.call('SREM', prefix .. 'doubted', id)
end
