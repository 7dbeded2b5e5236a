-- tell_end: tells Celery's result backend of an end that the ledger decides.
-- include: clock, job, tell

-- Whether Celery's results are in this Redis, so that the ledger tells the ends that it decides itself.
local function results_are_here() return redis.call('HEXISTS', prefix .. 'results', 'prefix') == 1 end

-- A time in ms since 1970 as Celery writes it. (Redis' Lua has no dates: the algorithm is Howard Hinnant's, for
-- https://howardhinnant.github.io/date_algorithms.html#civil_from_days, of the years from 1970 on.)
local function written(time)
  local floor, seconds = math.floor, math.floor(time / 1000)
  local days, rest = floor(seconds / 86400) + 719468, seconds % 86400
  local era = floor(days / 146097)
  local day = days - era * 146097
  local year = floor((day - floor(day / 1460) + floor(day / 36524) - floor(day / 146096)) / 365)
  local of_year = day - (365 * year + floor(year / 4) - floor(year / 100))
  local month = floor((5 * of_year + 2) / 153)
  local of_month = of_year - floor((153 * month + 2) / 5) + 1
  local name = month < 10 and month + 3 or month - 9
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03d000+00:00', year + era * 400 + (name <= 2 and 1 or 0), name,
    of_month, floor(rest / 3600), floor(rest / 60) % 60, rest % 60, time % 1000)
end

-- Tell whoever waits by the result backend of an end that the ledger has decided. *error*: JSON of why.
local function tell_end(state, error)
  local known, why = redis.call('HMGET', prefix .. 'results', 'prefix', 'ttl'), cjson.decode(error)
  if not known[1] then return end
  local result = cjson.encode({exc_type = why.type, exc_message = {why.message}, exc_module = why.module})
  tell(known[1] .. id, '{"status": "' .. state .. '", "result": ' .. result .. ', "traceback": null, "children": [], ' ..
    '"date_done": "' .. written(now()) .. '", "task_id": ' .. cjson.encode(id) .. '}', known[2])
end
