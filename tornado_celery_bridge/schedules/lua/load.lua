-- load: replace the entries of the configuration.
-- KEYS: schedules, schedules:due, schedules:static
-- ARGV: prefix
-- ROWS: name, entry, slot, due
-- Answers: nothing
--   entry: '' for one that stays as it is. Static entries that are not named go.
-- include: put, delete, wake_beat, rows

local keep = {['-'] = true}
redis.call('SADD', schedules .. ':static', '-')
for name, entry, slot, due in rows() do
  if entry ~= '' then
    put(name, entry, slot, due)
    redis.call('SADD', schedules .. ':static', name)
  end
  keep[name] = true
end
for _, name in ipairs(redis.call('SMEMBERS', schedules .. ':static')) do
  if not keep[name] then delete(name) end
end
wake_beat()
