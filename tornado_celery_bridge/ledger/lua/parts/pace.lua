-- pace: how long jobs of a task have waited and run of late.
-- include: job

-- A moving average over some ten jobs, in ms.
local function note_pace(name, ms)
  local before = redis.call('HGET', prefix .. 'pace', name)
  local mean = before and before * 0.8 + ms * 0.2 or ms
  redis.call('HSET', prefix .. 'pace', name, string.format('%.0f', mean))
end
