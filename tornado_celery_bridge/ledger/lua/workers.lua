-- workers: the workers that were heard of within the hour.
-- KEYS: workers
-- ARGV: prefix
-- Answers: {name, for how many ms it was not heard of, about (JSON), its jobs' ids} of each
-- include: clock

local time, found = now(), {}
local seen = redis.call('ZRANGE', prefix .. 'workers', 0, -1, 'WITHSCORES')
for place = 1, #seen, 2 do
  local known = redis.call('HMGET', prefix .. 'worker:' .. seen[place], 'about', 'jobs')
  if known[1] then found[#found + 1] = {seen[place], time - seen[place + 1], known[1], known[2]} end
end
return found
