-- schedules: the entries, and when they are due.
-- include: job

local schedules = prefix .. 'schedules'
local function key_of(name) return prefix .. 'schedule:' .. name end

-- Read fields of an entry; false if there is something else in its place, such as somebody's own key.
local function known_of(name, ...)
  local known = redis.pcall('HMGET', key_of(name), ...)
  return not known.err and known
end

-- Have an entry be due for a slot, at this time; with '' for never.
local function be_due(name, slot, due)
  if slot == '' then
    redis.call('HDEL', key_of(name), 'slot')
    redis.call('ZREM', schedules .. ':due', name)
  else
    redis.call('HSET', key_of(name), 'slot', slot)
    redis.call('ZADD', schedules .. ':due', due, name)
  end
end
