-- queues: the queues that have jobs.
-- KEYS: reached
-- ARGV: prefix
-- Answers: {queue:priority, how many are due, how many are not due yet, for how many ms the first one has been due}
-- of each queue and priority
-- include: clock

local time, found = now(), {}
for _, name in ipairs(redis.call('HKEYS', prefix .. 'reached')) do
  local queued = prefix .. 'queued:' .. name
  local all, due = redis.call('ZCARD', queued), redis.call('ZCOUNT', queued, '-inf', time)
  local first = redis.call('ZRANGE', queued, 0, 0, 'WITHSCORES')[2]
  found[#found + 1] = {name, due, all - due, first and math.max(0, time - first) or 0}
end
return found
