-- set_limit: make, replace or remove a named limit, which holds for several tasks together.
-- KEYS: limits, limits:used, lines, held
-- ARGV: prefix, name, settings
-- ROWS: task
-- Answers: {set | removed | unknown}, or {taken, the task, its limit} of the first task that has another one
--   settings: JSON of max_concurrency, max_rate, interval (ms), as far as they are set, and tasks; '' to remove it.
-- include: limits, rows

for task in rows() do
  local other = redis.call('HGET', limits, 'of\n' .. task)
  if other and other ~= name then return {'taken', task, other} end
end
local stored = redis.call('HGET', limits, 'named\n' .. name)
if settings == '' and not stored then return {'unknown'} end
for _, task in ipairs(stored and cjson.decode(stored).tasks or {}) do redis.call('HDEL', limits, 'of\n' .. task) end
if settings == '' then
  redis.call('HDEL', limits, 'named\n' .. name)
else
  redis.call('HSET', limits, 'named\n' .. name, settings)
  for task in rows() do
    redis.call('HSET', limits, 'of\n' .. task, name)
    count_running(task, '\n' .. name)
  end
end
look_at('\n' .. name, now())
return {settings == '' and 'removed' or 'set'}
