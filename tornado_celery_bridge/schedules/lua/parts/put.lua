-- put: stores an entry. Return its new version.
-- include: schedules, owners

local function put(name, entry, slot, due)
  if not known_of(name, 'version') then redis.call('DEL', key_of(name)) end
  local version = redis.call('HINCRBY', key_of(name), 'version', 1)
  redis.call('HSET', key_of(name), 'entry', entry)
  redis.call('HDEL', key_of(name), 'halted', 'failures', 'held', 'quarantined')
  redis.call('SREM', schedules .. ':quarantined', name)
  redis.call('ZADD', schedules, 0, name)
  belong(name, cjson.decode(entry).owner or '')
  be_due(name, slot, due)
  return version
end
