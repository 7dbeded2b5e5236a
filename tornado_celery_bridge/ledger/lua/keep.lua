-- keep: a worker is about to publish a message. Keep it if it is a job's.
-- KEYS: job:{job_id}, message:{job_id}, retry:{job_id}
-- ARGV: prefix, job_id, token, message, delay, expires_in, why, queue, priority
-- Answers: whether it is
--   token: of the job's own attempt that publishes it, '' for somebody else. delay: ms until it is due, '' for now.
--   expires_in: ms, '' for never. why: of a retry, JSON of its error, else ''. queue, priority: where it goes; priority
--   '' for none, '-1' as it was.
-- include: clock, queues, expiry

turn(job_id)
local known = redis.call('HMGET', job, 'state', 'token')
local state = known[1]
if not state or ENDED[state] then return 0 end
if token ~= '' and token ~= known[2] then return 0 end  -- of an attempt that was given up
local at = now() + (tonumber(delay) or 0)
redis.call('SET', prefix .. 'message:' .. id, message)
if why ~= '' then redis.call('SET', prefix .. 'retry:' .. id, why) end
goes_to(queue, priority)
redis.call('HSET', job, 'due', at)
if token ~= '' then redis.call('HSET', job, 'asker', token) end
if expires_in ~= '' then
  expires_at(now() + expires_in)
  redis.call('HSET', job, 'expiring', 1)
end
if delay ~= '' then redis.call('HSET', job, 'delayed', 1) else redis.call('HDEL', job, 'delayed') end
if bucket(state) ~= 'STARTED' or redis.call('HEXISTS', job, 'handed_on') == 1 then
  enqueued(at)
elseif why == '' then  -- of what takes the place of the task that runs, which has not told so yet
  redis.call('HSET', job, 'next_due', at)
end
return 1
