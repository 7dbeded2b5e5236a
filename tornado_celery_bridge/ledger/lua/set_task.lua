-- set_task: change what is set of a task at run time: its limits, and whether jobs of it are accepted.
-- KEYS: limits, limits:used, lines, held
-- ARGV: prefix, task, patch, switch, reason, by
-- Answers: nothing
--   patch: JSON of max_concurrency, max_rate and interval (ms); null takes one back, and what is not there stays.
--   switch: off | on, '' if that stays. reason, by: of off: why, and who wants it.
-- include: limits

local stored = redis.call('HGET', limits, 'task\n' .. task)
local set = stored and cjson.decode(stored) or {}
for name, value in pairs(cjson.decode(patch)) do
  if value == cjson.null then set[name] = nil else set[name] = value end
end
if next(set) then
  redis.call('HSET', limits, 'task\n' .. task, cjson.encode(set))
  count_running(task, task)
else
  redis.call('HDEL', limits, 'task\n' .. task)
end
if switch == 'on' then
  redis.call('HDEL', limits, 'off\n' .. task)
elseif switch == 'off' then
  redis.call('HSET', limits, 'off\n' .. task, cjson.encode({reason = reason, by = by, at = now()}))
end
look_at_task(task)
