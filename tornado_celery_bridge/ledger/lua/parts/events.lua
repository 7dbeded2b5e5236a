-- events: the job's events, which are kept and published.
-- include: job

-- Number an event, keep it and publish it. The last 1,000 are kept.
local function emit(kind, data)
  local number = redis.call('HINCRBY', job, 'number', 1)
  if redis.call('RPUSH', events, kind .. ' ' .. data) > 1000 then redis.call('LPOP', events) end
  redis.call('PUBLISH', events, number .. ' ' .. kind .. ' ' .. data)
end
