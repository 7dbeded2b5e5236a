-- item: an attempt of a task that is a generator has yielded an item.
-- The last 1,000 items of a job are kept, and of them the last that have 1 MiB together.
-- KEYS: job:{job_id}, events:{job_id}, items:{job_id}
-- ARGV: prefix, job_id, token, number, value, result_key, result, result_ttl
-- Answers: go | unknown (no job) | late (the attempt was given up, or has ended: it is not kept) | cancelled (it is kept,
--   and the job was cancelled)
--   number: counted from 1 in the attempt. value: JSON. result_key, result, result_ttl: as for start.
-- include: job, events, tell

local MOST, MOST_BYTES = 1000, 1048576

turn(job_id)
local known = redis.call('HMGET', job, 'state', 'token', 'cancelled', 'attempt', 'item_bytes', 'yielded')
if not known[1] then
  if not is_forgotten() then tell(result_key, result, result_ttl) end
  return 'unknown'
end
if ENDED[known[1]] or known[2] ~= token then return 'late' end
local mark = token .. ' ' .. number
if known[6] ~= mark then  -- else it came before, and the answer was lost
  local data = '{"attempt":' .. (known[4] or 0) .. ',"number":' .. number .. ',"value":' .. value .. '}'
  local items, place = prefix .. 'items:' .. id, redis.call('HINCRBY', job, 'items', 1)
  local event = redis.call('HINCRBY', job, 'number', 1)
  emit('item', data, event, place)
  local kept = event .. ' ' .. data
  local count, bytes = redis.call('RPUSH', items, kept), tonumber(known[5] or 0) + #kept
  while count > MOST or bytes > MOST_BYTES do
    count, bytes = count - 1, bytes - #redis.call('LPOP', items)
  end
  redis.call('HSET', job, 'item_bytes', bytes, 'yielded', mark)
  tell(result_key, result, result_ttl)
end
return known[3] and 'cancelled' or 'go'
