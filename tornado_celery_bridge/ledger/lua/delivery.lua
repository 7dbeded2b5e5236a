-- delivery: how far a job's callback is.
-- KEYS: job:{job_id}, attempts:{job_id}
-- ARGV: prefix, job_id
-- Answers: {callback, delivery's state, when to try next or '', attempts…}; {} if there is none
-- include: callbacks

turn(job_id)
local known = redis.call('HMGET', job, 'callback', 'delivery')
if not known[2] then return {} end
local found = redis.call('LRANGE', prefix .. 'attempts:' .. id, 0, -1)
table.insert(found, 1, redis.call('ZSCORE', prefix .. 'callbacks:' .. receiver_of(known[1]), id) or '')
table.insert(found, 1, known[2])
table.insert(found, 1, known[1])
return found
