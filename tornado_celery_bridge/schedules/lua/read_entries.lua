-- read_entries: entries as they are stored.
-- KEYS: schedules, schedules:static
-- ARGV: prefix
-- ROWS: names
-- Answers: {entry, version, slot, runs, failures, last, halted, quarantined, static, last_at} of each, '' for what it
-- has not; or {} if there is no such entry
-- include: schedules, rows

local found = {}
for name in rows() do
  local one = {}
  local fields = {'entry', 'version', 'slot', 'runs', 'failures', 'last', 'halted', 'quarantined', 'last_at'}
  local known = known_of(name, unpack(fields)) or {}
  if redis.call('EXISTS', key_of(name)) == 1 then
    for field = 1, 8 do one[field] = known[field] or '' end
    one[10] = known[9] or ''
    one[9] = redis.call('SISMEMBER', schedules .. ':static', name)
  end
  found[#found + 1] = one
end
return found
