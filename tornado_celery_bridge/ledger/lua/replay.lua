-- replay: make the callback of an ended job due again, now.
-- KEYS: job:{job_id}
-- ARGV: prefix, job_id
-- Answers: nothing
-- include: clock, callbacks

turn(job_id)
local known = redis.call('HMGET', job, 'callback', 'delivery')
if not known[2] then return end
redis.call('HSET', job, 'delivery', 'waiting')
redis.call('HDEL', job, 'tries')
call_back(receiver_of(known[1]), now())
