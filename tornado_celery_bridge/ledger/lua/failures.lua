-- failures: the groups of failed jobs, the one with the last failure first.
-- KEYS: failures
-- ARGV: prefix, of_one, owner
-- Answers: {id, owner, task, exception, place, detail, first, last, count, jobs that were not tried again} of each
--   of_one: whether to return the groups of this owner alone.
-- include: failures

local found = {}
local groups = of_one == '' and prefix .. 'failures' or groups_of(owner)
for _, name in ipairs(redis.call('ZREVRANGEBYSCORE', groups, '+inf', now() - GROUP_TTL, 'LIMIT', 0, MAX_GROUPS)) do
  local known = redis.call('HMGET', prefix .. 'failure:' .. name, 'owner', 'task', 'exception', 'place', 'detail',
    'first', 'last', 'count')
  if known[1] then
    table.insert(known, 1, name)
    known[#known + 1] = redis.call('ZCARD', index('failure:' .. name))
    found[#found + 1] = known
  end
end
return found
