-- put: add an entry, or replace the one with its name.
-- KEYS: schedule:{name}, schedules, schedules:due
-- ARGV: prefix, name, version, entry, slot, due, may_be_static, most
-- Answers: the new version; -1 if it has another version, -2 if it is the configuration's, -3 if its owner has as many
--   version: that it has to have, '' for any, 0 for none yet. slot: '' for never. most: entries that its owner may have,
--   '' for any number.
-- include: put, wake_beat

local known = known_of(name, 'version') or {}
if version ~= '' and version ~= (known[1] or '0') then return -1 end
if may_be_static == '' and redis.call('SISMEMBER', schedules .. ':static', name) == 1 then return -2 end
if most ~= '' and not known[1] then
  local owner = cjson.decode(entry).owner or ''
  if redis.call('ZCARD', schedules .. ':owner:' .. owner) >= tonumber(most) then return -3 end
end
wake_beat()
return put(name, entry, slot, due)
