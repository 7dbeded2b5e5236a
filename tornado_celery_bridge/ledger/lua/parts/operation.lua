-- operation: what has become of an operation.
-- include: clock, job

local operation, its_id  -- of the one at hand: its hash, and its id

local function take_operation(name) operation, its_id = prefix .. 'operation:' .. name, name end

-- Keep others from it for so many ms.
local function hold_operation(lease) redis.call('ZADD', prefix .. 'operations:open', now() + lease, its_id) end

-- It has ended. It is kept for *keep* ms.
local function end_operation(state, keep)
  redis.call('HSET', operation, 'state', state, 'finished_at', now())
  redis.call('HDEL', operation, 'waits')
  redis.call('ZREM', prefix .. 'operations:open', its_id)
  redis.call('PEXPIRE', operation, keep)
end

-- Add what a step has done, and note where the next one begins: nowhere, if *newest* is ''.
local function note_step(newest, after, looked, matched, done, skipped, keep)
  redis.call('HINCRBY', operation, 'looked', looked)
  redis.call('HINCRBY', operation, 'matched', matched)
  redis.call('HINCRBY', operation, 'done', done)
  for reason, number in pairs(skipped) do redis.call('HINCRBY', operation, 'skipped ' .. reason, number) end
  redis.call('HSET', operation, 'newest', newest, 'after', after)
  redis.call('HDEL', operation, 'waits')
  if newest == '' then end_operation('DONE', keep) end
end
