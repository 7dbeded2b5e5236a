-- report: an attempt tells something of itself: its state, its progress or a log line.
-- KEYS: job:{job_id}, events:{job_id}, value:{job_id}
-- ARGV: prefix, job_id, kind, data, state, value, retries
-- Answers: go | unknown | cancelled, or the state in which the job has ended
--   kind: of the event: state | progress | log. state: '' leaves the job's state and value as they are. retries: of an
--   attempt that ends with this, '' for one that goes on.
-- include: retried, limits

turn(job_id)
local known = redis.call('HMGET', job, 'state', 'cancelled', 'retries', 'slot')
if not known[1] then return 'unknown' end
if ENDED[known[1]] then return known[1] end
if retries ~= '' and known[3] ~= retries then return 'go' end
local is_under_way = bucket(known[1]) == 'STARTED'
if state == 'RETRY' then
  if is_under_way then retried(known[1], value) end  -- else START has told it already, or it was given up for lost
  if known[4] then release(known[4]) end
  return known[2] and 'cancelled' or 'go'
end
if state ~= '' then
  if not is_under_way then return 'go' end  -- of an attempt that was given up for lost
  move_state(known[1], state)
  redis.call('HSET', job, 'state', state)
  set_value(value)
end
emit(kind, data)
return known[2] and 'cancelled' or 'go'
