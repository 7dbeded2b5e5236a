-- attempts: what is kept of a job's attempts besides the job itself.
-- KEYS: job:{job_id}, past:{job_id}, events:{job_id}
-- ARGV: prefix, job_id, most_bytes
-- Answers: those that have ended and have not ended the job, as JSON; then, of the kept events, the newest of those
-- that say of a state or are a line of the log, the oldest first; and how many lines of the log were left out
--   most_bytes: of the events in the answer.
-- include: job

turn(job_id)
local left, out, found = tonumber(most_bytes), 0, {}
local kept = redis.call('LRANGE', events, 0, -1)
for place = #kept, 1, -1 do
  local kind = string.match(kept[place], '^%l+')
  if kind == 'state' or kind == 'log' then
    left = left - #kept[place]
    if left >= 0 or kind == 'state' then table.insert(found, 1, kept[place]) else out = out + 1 end
  end
end
return {redis.call('LRANGE', prefix .. 'past:' .. id, 0, -1), found, out}
