-- claim_operation: the operation that has waited longest for somebody who carries it on; the caller does so then.
-- KEYS: operations:open
-- ARGV: prefix, lease
-- Answers: its id; nothing if there is none
--   lease: ms for which nobody else gets it.
-- include: clock

local open, time = prefix .. 'operations:open', now()
local found = redis.call('ZRANGEBYSCORE', open, '-inf', time, 'LIMIT', 0, 1)[1]
if found then redis.call('ZADD', open, time + lease, found) end
return found
