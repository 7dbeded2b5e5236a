-- put: stores an entry. Return its new version.
-- include: schedules, owners

-- The version of a new entry comes after those of all that were deleted: none is given twice to one name, so whoever
-- read an entry can't change or delete another that has its name now.

local function put(name, entry, slot, due)
  if not known_of(name, 'version') then redis.call('DEL', key_of(name)) end
  local before = redis.call('HGET', key_of(name), 'version') or redis.call('GET', schedules .. ':deleted') or 0
  local version = before + 1
  redis.call('HSET', key_of(name), 'version', version)
  redis.call('HSET', key_of(name), 'entry', entry)
  redis.call('HDEL', key_of(name), 'halted', 'failures', 'held', 'quarantined')
  redis.call('SREM', schedules .. ':quarantined', name)
  redis.call('ZADD', schedules, 0, name)
  belong(name, cjson.decode(entry).owner or '')
  be_due(name, slot, due)
  return version
end
