-- clock: the server's time.

local function read_clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local time_now

-- Milliseconds since 1970; the same all along a command.
local function now()
  time_now = time_now or read_clock()
  return time_now
end
