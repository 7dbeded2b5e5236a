-- delete: removes an entry.
-- include: schedules, owners

local function delete(name)
  belong(name, '')
  redis.call('DEL', key_of(name), schedules .. ':runs:' .. name)
  redis.call('ZREM', schedules, name)
  redis.call('ZREM', schedules .. ':due', name)
  redis.call('SREM', schedules .. ':static', name)
  redis.call('SREM', schedules .. ':quarantined', name)
end
