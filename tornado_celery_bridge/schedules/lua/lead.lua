-- lead: become the leader, if no other beat is, or stay it.
-- KEYS: schedules:leader, schedules:fence
-- ARGV: prefix, me, lease, fence
-- Answers: the fence under which it leads, or 0
--   lease: ms. fence: that it has, 0 for none.
-- include: schedules

local leader = redis.call('GET', schedules .. ':leader')
if leader and leader == fence .. ' ' .. me then
  redis.call('PEXPIRE', schedules .. ':leader', lease)
  return tonumber(fence)
end
if leader then
  -- Of a server whose clock was set back: its lease would last for longer by that.
  if redis.call('PTTL', schedules .. ':leader') > tonumber(lease) then
    redis.call('PEXPIRE', schedules .. ':leader', lease)
  end
  return 0
end
local new_fence = redis.call('INCR', schedules .. ':fence')
redis.call('SET', schedules .. ':leader', new_fence .. ' ' .. me, 'PX', lease)
return new_fence
