-- wake_beat: tells the leading beat that an entry was changed.
-- include: schedules

local function wake_beat()
  redis.call('LPUSH', schedules .. ':wake', 1)
  redis.call('LTRIM', schedules .. ':wake', 0, 0)
end
