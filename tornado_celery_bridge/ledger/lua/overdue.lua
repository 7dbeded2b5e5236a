-- overdue: jobs that are due in a queue for longer than after ms: somebody who does not know the ledger may have run them.
-- KEYS: reached, looked
-- ARGV: prefix, after, most, pause
-- Answers: the id and created_at of each, of each queue the first; nothing if somebody has looked within pause ms
-- include: clock, job

if not redis.call('SET', prefix .. 'looked', 1, 'NX', 'PX', pause) then return {} end
local found = {}
for _, name in ipairs(redis.call('HKEYS', prefix .. 'reached')) do
  local queued = prefix .. 'queued:' .. name
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', queued, '-inf', now() - after, 'LIMIT', 0, most)) do
    turn(unpacked(each))
    local created_at = redis.call('HGET', job, 'created_at')
    if created_at then
      found[#found + 1] = id
      found[#found + 1] = created_at
    end
  end
end
return found
