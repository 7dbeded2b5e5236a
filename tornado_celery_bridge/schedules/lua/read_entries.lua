-- read_entries: entries as they are stored.
-- KEYS: schedules, schedules:static
-- ARGV: prefix, page_bytes
-- ROWS: names
-- Answers: {entry, version, slot, runs, failures, last, halted, quarantined, static, last_at} of each, '' for what it
-- has not; or {} if there is no such entry
--   page_bytes: the answer ends with the entry that goes beyond these; '' for no bound.
-- include: schedules, rows

local found, size = {}, 0
page_bytes = tonumber(page_bytes) or math.huge
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
  size = size + #(one[1] or '')
  if size > page_bytes then break end
end
return found
