-- accept: write a new job down, and hold its idempotency key. A job that is there already stays as it is.
-- KEYS: job:{job_id}, input:{job_id}, message:{job_id}, open, key:{key}, unique:{unique}, checkpoint:{goes_on}, limits
-- ARGV: prefix, job_id, task, record, input, owner, ttl, delay, most, key, fingerprint, key_ttl, key_lease, message,
--   unique, callback, goes_on
-- Answers: {accepted | taken-over | exists | full | other | in-flight}, {replay, response}, {unique, the other's id} or
--   {off, JSON of why its task is switched off}
--   record: JSON of the record's fields. most: unfinished jobs of the owner, '' for any number. key, unique, callback:
--   '' for none. goes_on: the job from whose checkpoint it goes on, '' for none. Times in ms.
-- include: reserve, full, write, off

turn(job_id)
local held, hold = reserve(key, fingerprint, key_ttl, key_lease)
if held then return held end
if redis.call('EXISTS', job) == 1 then return {'exists'} end
local its_unique = unique ~= '' and prefix .. 'unique:' .. unique
local same = its_unique and redis.call('GET', its_unique)
if same then
  if hold then hold() end
  return {'unique', same}
end
local off = why_off(task)
if off then return {'off', off} end
if is_full(owner, most, 1) then return {'full'} end
write(record, input, ttl, delay, message, callback)
if its_unique then
  redis.call('SET', its_unique, id)
  redis.call('HSET', job, 'unique', unique)
end
if goes_on ~= '' then
  local saved = redis.call('HGETALL', prefix .. 'checkpoint:' .. goes_on)
  if saved[1] then redis.call('HSET', prefix .. 'checkpoint:' .. id, unpack(saved)) end
end
if hold then hold() end
return {'accepted'}
