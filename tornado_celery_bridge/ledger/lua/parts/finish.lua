-- finish: ends the job, and with it what could only have run after it.
-- include: clock, job, state, events, history, let_go, open
-- include rarely: callbacks, failures, tell_end, workflow

local ENDS = {SUCCESS = 's', IGNORED = 's', FAILURE = 'f', REVOKED = 'v'}

local NOT_NEEDED = '{"type":"TaskRevokedError","module":"celery.exceptions","message":"nothing failed"}'

local told  -- the id of the job whose end somebody has told Celery's result backend

local function finish_one(from, state, value)
  local known = redis.call('HMGET', job, 'ttl', 'owner', 'started_at', 'task', 'workflow', 'callback', 'queue',
    'schedule', 'created_at', 'number')
  local time, number = now(), (known[10] or 0) + 1
  local ran = known[3] and time - known[3]
  let_go('value:', ENDS[state] == 's' and 'checkpoint:' or nil)
  redis.call('HSET', job, 'state', state, 'finished_at', time, 'number', number)
  redis.call('HDEL', job, 'token', 'due', 'ttl', 'retries', 'cancelled', 'parked', 'unique', 'lost',
    'delayed', 'handed_on', 'next_due', 'nesting', 'asker', 'expiring', 'other', 'turn', 'shared_turn',
    'version', 'version_of', 'on_hold', 'yielded')
  if value ~= 'null' then set_value(value) end
  if id ~= told and (state == 'FAILURE' or state == 'REVOKED') then rare.tell_end(state, value) end
  move_state(from, state, known[9])
  opened(known[2], known[8], -1)
  count(time, known[7], known[4], ENDS[state] .. (ran and bucket_of(ran) or ''))
  if ran then count(time, known[7], known[4], 'T', ran) end
  emit('end', '{}', number)
  redis.call('PEXPIRE', events, math.min(known[1], 3600000))
  if known[6] then
    redis.call('HSET', job, 'delivery', 'waiting')
    rare.call_back(rare.receiver_of(known[6]), time)
  end
  local workflow = known[5] and prefix .. 'workflow:' .. known[5]
  if not workflow or redis.call('EXISTS', workflow) == 0 then
    redis.call('ZADD', prefix .. 'due', time + known[1], pack(id))
    return
  end
  local me, unfinished = id, redis.call('HINCRBY', workflow, 'open', -1)
  local on_error = redis.call('HGET', workflow, 'on_error')
  if on_error == me then redis.call('HDEL', workflow, 'on_error') end
  if unfinished <= 0 then
    rare.finish_workflow(known[5])
  elseif unfinished == 1 and on_error and on_error ~= me then  -- all that could fail has succeeded
    turn(on_error)
    if redis.call('EXISTS', job) == 1 then finish_one('PENDING', 'REVOKED', NOT_NEEDED) end
    turn(me)
  end
end

-- End the job. Of a FAILURE that is to be in a group, also say what was raised, what it said and where.
local function finish(from, state, value, exception, detail, place)
  if state ~= 'SUCCESS' then rare.call_for_help(state, value) end
  finish_one(from, state, value)
  if state == 'SUCCESS' then return end
  if exception then rare.note_failure(exception, detail, place) end
  local first, ended, place = id, {id}, 1
  local reason = 'job ' .. id .. ', which this one waited for, ended as ' .. state
  local error = cjson.encode({type = 'TaskRevokedError', module = 'celery.exceptions', message = reason})
  while ended[place] do
    for _, each in ipairs(rare.take_after(ended[place])) do
      turn(each)
      local was = redis.call('HGET', job, 'state')
      if was and not ENDED[was] then
        finish_one(was, 'REVOKED', error)
        ended[#ended + 1] = each
      end
    end
    place = place + 1
  end
  turn(first)
end
