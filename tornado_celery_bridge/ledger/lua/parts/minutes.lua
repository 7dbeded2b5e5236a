-- minutes: adds what was counted in a minute that is over to its hour, its day and the total.
-- include: job

local function add(slot, counts)
  for series, found in pairs(counts) do
    local known = redis.call('HGET', slot, series)
    local sum = known and cjson.decode(known) or {}
    for what, number in pairs(found) do sum[what] = (sum[what] or 0) + number end
    redis.call('HSET', slot, series, cjson.encode(sum))
  end
end

local function close_minute(minute)
  local SPANS = {minute = {1, 120}, hour = {60, 192}, day = {1440, 400}}  -- minutes, and how many of them are kept
  local open, counts, all = redis.call('HGETALL', prefix .. 'history:open'), {}, {}
  for place = 1, #open, 2 do
    local what, series = string.match(open[place], '^(%w+) (.*)$')
    if what then
      local number = tonumber(open[place + 1])
      counts[series] = counts[series] or {}
      counts[series][what] = number
      all[what] = (all[what] or 0) + number
    end
  end
  counts[''] = all
  for name, span in pairs(SPANS) do
    local first = minute - minute % span[1]
    local slot = prefix .. 'history:' .. name .. ':' .. string.format('%.0f', first)
    add(slot, counts)
    redis.call('PEXPIREAT', slot, string.format('%.0f', (first + span[1] * (span[2] + 1)) * 60000))
  end
  add(prefix .. 'history:all', counts)
  redis.call('DEL', prefix .. 'history:open')
end
