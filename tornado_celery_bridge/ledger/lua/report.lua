-- report: an attempt tells something of itself: its state, its progress or a log line.
-- KEYS: job:{job_id}, events:{job_id}, value:{job_id}
-- ARGV: prefix, job_id, token, kind, data, state, value
-- Answers: go | unknown | cancelled, or the state in which the job has ended
--   token: of the attempt, '' for somebody else. kind: of the event: state | progress | log. state: '' leaves the job's
--   state and value as they are.
-- include: job, state, events

turn(job_id)
local known = redis.call('HMGET', job, 'state', 'cancelled', 'token')
if not known[1] then return 'unknown' end
if ENDED[known[1]] then return known[1] end
if token ~= '' and known[3] ~= token then return 'go' end  -- it was given up, or the next one has begun
if state ~= '' then
  if bucket(known[1]) ~= 'STARTED' then return 'go' end
  move_state(known[1], state)
  redis.call('HSET', job, 'state', state)
  set_value(value)
end
emit(kind, data)
return known[2] and 'cancelled' or 'go'
