-- reserve: idempotency keys.
-- include: job, clock

-- Return the answer if the key is held already; else nil, and a function that holds it.
local function reserve(name, fingerprint, ttl, lease)
  if name == '' then return end
  local key, time = prefix .. 'key:' .. name, now()
  local known = redis.call('HMGET', key, 'fingerprint', 'response', 'lease')
  if known[1] then
    if known[1] ~= fingerprint then return {'other'} end
    if known[2] then return {'replay', known[2]} end
    if time < tonumber(known[3]) then return {'in-flight'} end
    redis.call('HSET', key, 'lease', time + lease)
    return {'taken-over'}
  end
  return nil, function()
    redis.call('HSET', key, 'fingerprint', fingerprint, 'lease', time + lease)
    redis.call('PEXPIRE', key, ttl)
  end
end
