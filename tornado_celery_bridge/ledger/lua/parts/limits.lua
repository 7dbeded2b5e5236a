-- limits: the slots of a limit on how many jobs of one kind run at once.
-- include: clock, job, wake

-- Give back the job's slot; the job that has waited for one the longest gets it, and is published.
local function release(limit)
  local slots, parked, me = prefix .. 'slots:' .. limit, prefix .. 'parked:' .. limit, id
  redis.call('SREM', slots, pack(id))
  redis.call('HDEL', job, 'slot')
  local first
  repeat
    first = redis.call('ZPOPMIN', parked)[1]
    if not first then return turn(me) end
    turn(unpacked(first))
  until redis.call('EXISTS', job) == 1
  redis.call('SADD', slots, first)
  redis.call('HSET', job, 'slot', limit)
  redis.call('HDEL', job, 'parked')
  publish_later(now())
  turn(me)
end
