-- purge: end some jobs of a queue that are in this state, were accepted by a time, and whose message is in the queue or
-- to be published. (A job that comes after others has no message yet.)
-- KEYS: index:state:{state}
-- ARGV: prefix, queue, state, cursor, error, until_then
-- Answers: where to go on ('0' at the end), then the ids of the jobs that it has ended
--   state: PENDING | RETRY. cursor: '0' to begin. until_then: ms since 1970.
-- include: finish

until_then = tonumber(until_then)
local page = redis.call('ZSCAN', index('state:' .. state), cursor, 'COUNT', 200)
local found = {page[1]}
for place = 1, #page[2], 2 do
  local packed = page[2][place]
  turn(unpacked(packed))
  local known = redis.call('HMGET', job, 'state', 'queue', 'parked', 'created_at')
  if known[1] == state and known[2] == queue and tonumber(known[4]) <= until_then then
    local waits = known[3]
    for _, name in ipairs({'queued:' .. queue_name(), 'later', 'outbox'}) do
      waits = waits or redis.call('ZSCORE', prefix .. name, packed)
    end
    if waits then
      finish(state, 'REVOKED', error)
      found[#found + 1] = id
    end
  end
end
return found
