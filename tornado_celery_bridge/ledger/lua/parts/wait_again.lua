-- wait_again: the attempt under way is over, and another one begins the job.
-- include: clock, job, state, queues, events, past

-- The job waits for its message, and keeps its slot. *outcome*: how the attempt has ended: given back | lost.
local function wait_again(from, outcome)
  note_past(outcome, 'null')
  local time = now()
  redis.call('ZREM', prefix .. 'held', pack(id))
  redis.call('HSET', job, 'state', 'PENDING')
  -- 'due', too: which of two messages it begins by is not known.
  redis.call('HDEL', job, 'token', 'started_at', 'due', 'handed_on', 'next_due')
  set_value('null')
  move_state(from, 'PENDING')
  enqueued(time)
  emit('state', cjson.encode({state = 'PENDING'}))
end
