-- expire: end the jobs that have expired and have not begun, at most so many. Any process may look for them.
-- KEYS: expiring
-- ARGV: prefix, most
-- Answers: how many were looked at
-- include: expiry, finish, each

local late = redis.call('ZRANGEBYSCORE', expiring, '-inf', now(), 'LIMIT', 0, most)
each_job(expiring, late, function(state, packed)
  if waits(state) then finish(state, 'REVOKED', EXPIRED) else redis.call('ZREM', expiring, packed) end
end)
return #late
