-- checkpoint: an attempt saves where it is, for the next one to go on from there.
-- KEYS: job:{job_id}, events:{job_id}, checkpoint:{job_id}
-- ARGV: prefix, job_id, token, code, value
-- Answers: saved | cancelled (saved, and the job was cancelled) | late (the attempt was given up, or has ended)
--   code: whose checkpoint it is: the task's name, and if the task took another one's place (Celery's replace), how
--   many had before. value: JSON.
-- include: clock, job, events

turn(job_id)
local known = redis.call('HMGET', job, 'state', 'token', 'cancelled', 'attempt')
if not known[1] or ENDED[known[1]] or known[2] ~= token then return 'late' end
local time = now()
redis.call('HSET', prefix .. 'checkpoint:' .. id, 'code', code, 'value', value, 'saved_at', time, 'attempt', known[4])
emit('checkpoint', cjson.encode({saved_at = time, attempt = tonumber(known[4]), size = #value}))
return known[3] and 'cancelled' or 'saved'
