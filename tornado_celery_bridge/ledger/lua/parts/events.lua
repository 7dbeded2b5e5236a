-- events: the job's events, which are kept and published.
-- include: job

-- Keep an event and publish it. The last 1,000 are kept. *number*: the event's, where the job's `number` is set to it
-- together with other fields.
local function emit(kind, data, number)
  local event = kind .. ' ' .. data
  number = number or redis.call('HINCRBY', job, 'number', 1)
  if redis.call('RPUSH', events, event) > 1000 then redis.call('LPOP', events) end
  redis.call('PUBLISH', events, string.format('%.0f ', number) .. event)
end
