-- defer: put a job that could not be published into the outbox.
-- KEYS: job:{job_id}, outbox, wake
-- ARGV: prefix, job_id, most, place
-- Answers: whether it will be published; if not, there are most jobs in the outbox already
--   place: the position in the outbox, '' for its end.
-- include: queues, wake

turn(job_id)
local known = redis.call('HMGET', job, 'state', 'on_hold')
if known[1] ~= 'PENDING' or known[2] then return 1 end
if redis.call('ZCARD', prefix .. 'outbox') >= tonumber(most) then return 0 end
local time = redis.call('TIME')
dequeued()
redis.call('ZADD', prefix .. 'outbox', tonumber(place) or time[1] * 1000000 + time[2], pack(id))
wake_publisher()
return 1
