-- retry: an attempt has ended, and asks for another one.
-- KEYS: job:{job_id}, events:{job_id}, value:{job_id}, later
-- ARGV: prefix, job_id, token, error, traceback, publish, result_key, result, result_ttl
-- Answers: whether the attempt was under way; if not, it was given up, or the next one has begun and told this
--   error: JSON of why. traceback: its last part, '' for none. publish: whether there is no message yet that begins the next attempt.
--   result_key, result, result_ttl: as for start; told only of the attempt under way, or of a task that is no job.
-- include: retried, limits, wake, tell

turn(job_id)
local known = redis.call('HMGET', job, 'state', 'token')
if not known[1] then
  redis.call('DEL', prefix .. 'begun:' .. id)
  if not is_forgotten() then tell(result_key, result, result_ttl) end
end
if not known[1] or ENDED[known[1]] or known[2] ~= token then return 0 end
if bucket(known[1]) == 'STARTED' then retried(known[1], error, traceback) end  -- else START has told it, and it waits for a limit
tell(result_key, result, result_ttl)
redis.call('HDEL', job, 'token')  -- it has said all
release()
if publish ~= '' then
  redis.call('HINCRBY', job, 'retries', -1)  -- by the message that began before
  dequeued()
  publish_later(now())
end
return 1
