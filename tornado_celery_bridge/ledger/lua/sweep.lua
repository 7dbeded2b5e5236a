-- sweep: forget finished jobs and workflows whose time is over.
-- KEYS: due
-- ARGV: prefix, remembered, most
-- Answers: how many
--   remembered: ms for which their ids are still known.
-- include: forget

local due = redis.call('ZRANGEBYSCORE', prefix .. 'due', '-inf', now(), 'LIMIT', 0, most)
for _, each in ipairs(due) do
  local owner
  if string.sub(each, 1, 9) == 'workflow:' then
    owner = redis.call('HGET', prefix .. each, 'owner')
    redis.call('DEL', prefix .. each)
  else
    turn(unpacked(each))
    local known = forget()
    owner = known and known[1]
  end
  if owner then redis.call('SET', prefix .. 'gone:' .. unpacked(each), owner, 'PX', remembered) end
  redis.call('ZREM', prefix .. 'due', each)
end
return #due
