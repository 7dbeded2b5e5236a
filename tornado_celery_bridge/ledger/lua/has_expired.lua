-- has_expired: by a worker's clock a message has expired: has its job? If so, the job ends.
-- KEYS: job:{job_id}, expiring
-- ARGV: prefix, job_id
-- Answers: yes | no (it has not, or has begun before) | unknown (no job)
-- include: expiry, finish

turn(job_id)
local state = redis.call('HGET', job, 'state')
if not state then return 'unknown' end
if not waits(state) or not has_expired() then return 'no' end
finish(state, 'REVOKED', EXPIRED)
return 'yes'
