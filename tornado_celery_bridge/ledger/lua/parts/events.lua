-- events: the job's events, which are kept and published.
-- include: job

-- Keep an event and publish it. The last 1,000 are kept. *number*: the event's, where the job's `number` is set to it
-- together with other fields. *kept*: what is kept in place of the data, if those are elsewhere.
local function emit(kind, data, number, kept)
  number = number or redis.call('HINCRBY', job, 'number', 1)
  if redis.call('RPUSH', events, kind .. ' ' .. (kept or data)) > 1000 then redis.call('LPOP', events) end
  redis.call('PUBLISH', events, string.format('%.0f ', number) .. kind .. ' ' .. data)
end
