-- failures: groups of jobs that failed alike: the same owner, task, exception and place.
-- include: clock, job

-- More groups of one owner than this are not kept, nor groups in which no job failed for so many ms.
local MAX_GROUPS = 500
local GROUP_TTL = 30 * 86400000  -- ms

local function groups_of(owner) return prefix .. 'failures:of:' .. owner end

local function drop_group(name)
  local owner = redis.call('HGET', prefix .. 'failure:' .. name, 'owner')
  if owner then redis.call('ZREM', groups_of(owner), name) end
  redis.call('ZREM', prefix .. 'failures', name)
  redis.call('DEL', prefix .. 'failure:' .. name, index('failure:' .. name))
end

local function note_failure(exception, detail, place)
  local known, time, groups = redis.call('HMGET', job, 'owner', 'task', 'created_at'), now(), prefix .. 'failures'
  local alike = table.concat({known[1], known[2], exception, place}, '\n')
  local name = string.sub(redis.sha1hex(alike), 1, 16)
  local group = prefix .. 'failure:' .. name
  local is_new = redis.call('HINCRBY', group, 'count', 1) == 1
  if is_new then
    redis.call('HSET', group, 'owner', known[1], 'task', known[2], 'exception', exception, 'place', place)
    redis.call('HSET', group, 'first', time)
  end
  redis.call('HSET', group, 'last', time, 'detail', detail)
  redis.call('ZADD', groups, time, name)
  redis.call('ZADD', groups_of(known[1]), time, name)
  redis.call('ZADD', index('failure:' .. name), known[3], pack(id))
  redis.call('HSET', job, 'failure', name)
  if not is_new then return end
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', groups, '-inf', time - GROUP_TTL)) do drop_group(old) end
  local owners = groups_of(known[1])
  if redis.call('ZCARD', owners) > MAX_GROUPS then drop_group(redis.call('ZRANGE', owners, 0, 0)[1]) end
end
