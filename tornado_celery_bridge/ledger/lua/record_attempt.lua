-- record_attempt: record an attempt to call back. If the lease is over, somebody else has the callback: then only
-- the attempt is noted.
-- KEYS: job:{job_id}, attempts:{job_id}
-- ARGV: prefix, job_id, lease, attempt, kept, state, next_in
-- Answers: nothing
--   lease: as claim_callbacks said. attempt: JSON; the last so many are kept. state: of the delivery. next_in: ms until
--   the next attempt, '' for none.
-- include: clock, callbacks

turn(job_id)
local callback = redis.call('HGET', job, 'callback')
if not callback then return end
local receiver = receiver_of(callback)
redis.call('RPUSH', prefix .. 'attempts:' .. id, attempt)
redis.call('LTRIM', prefix .. 'attempts:' .. id, -kept, -1)
if redis.call('ZSCORE', prefix .. 'callbacks:' .. receiver, id) ~= lease then return end
redis.call('HSET', job, 'delivery', state)
if next_in == '' then
  call_back(receiver)
else
  redis.call('HINCRBY', job, 'tries', 1)
  call_back(receiver, now() + next_in)
end
