-- retried: the attempt under way asks for another one.
-- include: clock, job, state, queues, history, events, past

-- *why*: JSON of the reason. *traceback*: its last part, '' for none. The job keeps its slot until the attempt's code has ended.
local function retried(from, why, traceback)
  note_past('retried', why, traceback)
  local known, time = redis.call('HMGET', job, 'due', 'queue', 'task'), now()
  redis.call('HSET', job, 'state', 'RETRY')
  set_value(why)
  move_state(from, 'RETRY')
  redis.call('ZREM', prefix .. 'held', pack(id))
  redis.call('DEL', prefix .. 'retry:' .. id)
  local at = string.format('%.0f', known[1] or time)
  redis.call('HSET', job, 'due', at)
  enqueued(at)
  count(time, known[2], known[3], 'r')
  emit('state', '{"state":"RETRY","due":' .. at .. ',"error":' .. why .. '}')
end
