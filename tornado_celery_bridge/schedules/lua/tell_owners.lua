-- tell_owners: whose entries may run, by the API keys that there are.
-- KEYS: schedules:owners
-- ARGV: prefix, has_keys
-- ROWS: owner, ends, most, patterns
-- Answers: nothing
--   has_keys: without keys, everybody's may. ends: when the last of the owner's keys expires, in ms since 1970, '' for
--   never. most: unfinished jobs that they may have, '' for any number. patterns: of the tasks that they may run, with
--   blanks between them.
-- include: schedules, rows

local owners = schedules .. ':owners'
redis.call('DEL', owners)
if has_keys == '' then return end
redis.call('HSET', owners, '', '')  -- so that it is there if nobody may
for owner, ends, most, patterns in rows() do
  redis.call('HSET', owners, owner, ends .. ' ' .. most .. ' ' .. patterns)
end
