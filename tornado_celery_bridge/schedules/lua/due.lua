-- due: the entries that are due; changes nothing.
-- KEYS: schedules:leader, schedules:due, schedules:static
-- ARGV: prefix, leader, most
-- Answers: nothing to a beat that does not lead; else {now, ms until there is more ('' for never), whether the
-- configuration was loaded, then {name, entry, version, slot, runs, failures, last, counted, held, state of the last
-- run's job} of each, or {name} of what is no entry}
--   leader: what schedules:leader has while this beat leads.
-- include: clock, schedules

if redis.call('GET', schedules .. ':leader') ~= leader then return end
most = tonumber(most)
local time = now()
local names = redis.call('ZRANGEBYSCORE', schedules .. ':due', '-inf', time, 'LIMIT', 0, most)
local found = {time, '', redis.call('EXISTS', schedules .. ':static')}
for _, name in ipairs(names) do
  local one = {name}
  local known = known_of(name, 'entry', 'version', 'slot', 'runs', 'failures', 'last', 'counted', 'held')
  if known then
    for field = 1, 8 do one[field + 1] = known[field] or '' end
    local state = redis.pcall('HGET', prefix .. 'job:' .. (known[6] or ''), 'state')
    one[10] = type(state) == 'string' and state or ''
  end
  found[#found + 1] = one
end
if #names == most then
  found[2] = 0
else
  local next = redis.call('ZRANGEBYSCORE', schedules .. ':due', '(' .. time, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if next[2] then found[2] = math.ceil(next[2] - time) end
end
return found
