-- delete: remove an entry.
-- KEYS: schedule:{name}, schedules, schedules:due
-- ARGV: prefix, name, version
-- Answers: 1; 0 if there is none; -1 and -2 as put
--   version: that it has to have, '' for any.
-- include: delete

if redis.call('EXISTS', key_of(name)) == 0 then return 0 end
local known = known_of(name, 'version') or {}
if version ~= '' and version ~= (known[1] or '0') then return -1 end
if redis.call('SISMEMBER', schedules .. ':static', name) == 1 then return -2 end
delete(name)
return 1
