-- items: what a job's task, a generator, has yielded.
-- KEYS: items:{job_id}
-- ARGV: prefix, job_id, after, most
-- Answers: the items as `number-of-the-event data`, in order
--   after: only those of events after this number.

after, most = tonumber(after), tonumber(most)
local found = {}
for _, item in ipairs(redis.call('LRANGE', prefix .. 'items:' .. job_id, 0, -1)) do
  if #found < most and tonumber(string.match(item, '^%d+')) > after then found[#found + 1] = item end
end
return found
