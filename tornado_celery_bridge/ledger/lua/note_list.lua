-- note_list: keep an owner's list of jobs. Of an owner's lists the last ones are kept.
-- KEYS: lists:{owner}
-- ARGV: prefix, owner, name, ids, ttl, most
-- Answers: nothing
--   most: lists of the owner that are kept.
-- include: clock

local lists, begins = prefix .. 'lists:' .. owner, prefix .. 'list:' .. owner .. ':'
redis.call('SET', begins .. name, ids, 'PX', ttl)
redis.call('ZADD', lists, now(), name)
redis.call('PEXPIRE', lists, ttl)
for _, old in ipairs(redis.call('ZRANGE', lists, 0, -tonumber(most) - 1)) do
  redis.call('DEL', begins .. old)
  redis.call('ZREM', lists, old)
end
