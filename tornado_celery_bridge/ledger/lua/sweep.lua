-- sweep: forget finished jobs and workflows whose time is over.
-- KEYS: due
-- ARGV: prefix, remembered, most
-- Answers: how many
--   remembered: ms for which their ids are still known.
-- include: forget

local due = redis.call('ZRANGEBYSCORE', prefix .. 'due', '-inf', now(), 'LIMIT', 0, most)
for _, each in ipairs(due) do
  local owner, name
  if #each ~= 16 and string.sub(each, 1, 9) == 'workflow:' then
    owner, name = redis.call('HGET', prefix .. each, 'owner'), 'gone-' .. each
    redis.call('DEL', prefix .. each)
  else
    turn(unpacked(each))
    local known = forget()
    owner, name = known and known[1], 'gone:' .. id
  end
  if owner then redis.call('SET', prefix .. name, owner, 'PX', remembered) end
  redis.call('ZREM', prefix .. 'due', each)
end
return #due
