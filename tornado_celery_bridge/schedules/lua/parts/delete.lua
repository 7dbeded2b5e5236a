-- delete: removes an entry.
-- include: schedules, owners

local function delete(name)
  local version = known_of(name, 'version')
  local last = tonumber(redis.call('GET', schedules .. ':deleted') or 0)
  redis.call('SET', schedules .. ':deleted', math.max(last, tonumber(version and version[1] or 0) or 0))
  belong(name, '')
  redis.call('DEL', key_of(name), schedules .. ':runs:' .. name)
  redis.call('ZREM', schedules, name)
  redis.call('ZREM', schedules .. ':due', name)
  redis.call('SREM', schedules .. ':static', name)
  redis.call('SREM', schedules .. ':quarantined', name)
end
