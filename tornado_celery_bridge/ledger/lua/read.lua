-- read: a job.
-- KEYS: job:{job_id}, value:{job_id}, checkpoint:{job_id}
-- ARGV: prefix, job_id, most_bytes, fields
-- Answers: {id, the fields, the value, its checkpoint as {value, saved_at, attempt} or {}, of a PENDING job how many
-- are in its queue, of a failed one its traceback}; {owner} of one that was forgotten; {} if there was none
--   most_bytes: of a larger value there are only its bytes; '' for no bound.
--   fields: names between commas, of which the first is one that each job has.
-- include: read

turn(job_id)
local values = read(names_in(fields), tonumber(most_bytes))
if not values then return {redis.call('GET', prefix .. 'gone:' .. id) or nil} end
local known, depth, traceback = redis.call('HMGET', job, 'state', 'queue', 'task'), false, false
local saved = redis.call('HMGET', prefix .. 'checkpoint:' .. id, 'value', 'saved_at', 'attempt', 'code')
if known[1] == 'PENDING' then
  local queued = prefix .. 'queued:' .. known[2] .. ':'
  depth = redis.call('ZCARD', queued)
  for priority = 0, 9 do depth = depth + redis.call('ZCARD', queued .. priority) end
end
if known[1] == 'FAILURE' then traceback = redis.call('GET', prefix .. 'traceback:' .. id) end
values[#values + 1] = saved[4] and saved[4] == known[3] and {saved[1], saved[2], saved[3]} or {}
values[#values + 1] = depth
values[#values + 1] = traceback
return values
