-- hand_on: an attempt has ended, and another task goes on under the job's id, and will end it (Celery's replace).
-- KEYS: job:{job_id}, held
-- ARGV: prefix, job_id, token
-- Answers: whether the attempt was under way; if not, the other task may have begun
-- include: queues, limits

turn(job_id)
local known = redis.call('HMGET', job, 'state', 'token', 'next_due')
if not known[1] or bucket(known[1]) ~= 'STARTED' or known[2] ~= token then return 0 end
redis.call('ZREM', prefix .. 'held', pack(id))
redis.call('HDEL', job, 'token', 'next_due')
redis.call('HSET', job, 'handed_on', 1)
if known[3] then enqueued(known[3]) end
release()
return 1
