-- owners: whose an entry is.
-- include: schedules

-- Who may see nothing but their own entries need not look through everybody's. '' is nobody.
local function belong(name, owner)
  local known = known_of(name, 'owner')
  if known and known[1] then
    redis.call('ZREM', schedules .. ':owner:' .. known[1], name)
    redis.call('HDEL', key_of(name), 'owner')
  end
  if owner ~= '' then
    redis.call('HSET', key_of(name), 'owner', owner)
    redis.call('ZADD', schedules .. ':owner:' .. owner, 0, name)
  end
end
