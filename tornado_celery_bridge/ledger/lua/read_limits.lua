-- read_limits: all limits, and how many jobs hold a slot of each and wait for one.
-- KEYS: limits, limits:used
-- ARGV: prefix, most
-- Answers: what is set and declared, as names and values; then limit, running and waiting of each that is in use: of a
-- task's own at most so many, by the values of limit_by
-- include: limits

local stored, seen, found = redis.call('HGETALL', limits), {}, {}
local function add(limit)
  found[#found + 1] = limit
  found[#found + 1] = redis.call('SCARD', prefix .. 'slots:' .. limit)
  found[#found + 1] = redis.call('ZCARD', prefix .. 'parked:' .. limit)
end
for place = 1, #stored, 2 do
  local kind, name = string.match(stored[place], '^(%l+)\n(.*)$')
  if kind == 'named' then
    add('\n' .. name)
  elseif (kind == 'code' or kind == 'task') and not seen[name] then
    seen[name] = true
    local its = redis.call('ZRANGEBYLEX', used, '[' .. name, '[' .. name .. '\n\255', 'LIMIT', 0, most)
    for _, limit in ipairs(its) do add(limit) end
  end
end
return {stored, found}
