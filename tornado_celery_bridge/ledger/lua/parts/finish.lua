-- finish: ends the job, and with it what could only have run after it.
-- include: clock, job, state, events, pace, history, let_go, callbacks, failures, tell, open

-- The last job of a workflow has ended.
local function finish_workflow(name)
  local workflow = prefix .. 'workflow:' .. name
  local known = redis.call('HMGET', workflow, 'ttl', 'jobs')
  local forgotten = now() + known[1]
  for _, each in ipairs(cjson.decode(known[2])) do redis.call('ZADD', prefix .. 'due', forgotten, pack(each)) end
  redis.call('ZADD', prefix .. 'due', forgotten, 'workflow:' .. name)
  redis.call('DEL', prefix .. 'message:' .. name)
  local its_events = prefix .. 'events:' .. name
  redis.call('RPUSH', its_events, 'end {}')
  redis.call('PUBLISH', its_events, '1 end {}')
  redis.call('PEXPIRE', its_events, math.min(known[1], 3600000))
end

local ENDS = {SUCCESS = 's', IGNORED = 's', FAILURE = 'f', REVOKED = 'v'}

local NOT_NEEDED = '{"type":"TaskRevokedError","module":"celery.exceptions","message":"nothing failed"}'

local told  -- the id of the job whose end somebody has told Celery's result backend

local function finish_one(from, state, value)
  local known = redis.call('HMGET', job, 'ttl', 'owner', 'started_at', 'task', 'workflow', 'callback', 'queue',
    'schedule')
  local time = now()
  local ran = known[3] and time - known[3]
  let_go()
  redis.call('HSET', job, 'state', state, 'finished_at', time)
  redis.call('HDEL', job, 'token', 'due', 'ttl', 'retries', 'cancelled', 'parked', 'unique', 'lost',
    'delayed', 'handed_on', 'next_due', 'nesting', 'asker', 'other', 'turn', 'shared_turn')
  set_value(value)
  if id ~= told and (state == 'FAILURE' or state == 'REVOKED') then tell_end(state, value) end
  move_state(from, state)
  opened(known[2], known[8], -1)
  if ENDS[state] == 's' then redis.call('DEL', prefix .. 'checkpoint:' .. id) end
  if ran and state == 'SUCCESS' then note_pace(known[4] .. ' run', ran) end
  count(time, known[7], known[4], ENDS[state] .. (ran and bucket_of(ran) or ''))
  if ran then count(time, known[7], known[4], 'T', ran) end
  emit('end', '{}')
  redis.call('PEXPIRE', events, math.min(known[1], 3600000))
  if known[6] then
    redis.call('HSET', job, 'delivery', 'waiting')
    call_back(receiver_of(known[6]), time)
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
    finish_workflow(known[5])
  elseif unfinished == 1 and on_error and on_error ~= me then  -- all that could fail has succeeded
    turn(on_error)
    if redis.call('EXISTS', job) == 1 then finish_one('PENDING', 'REVOKED', NOT_NEEDED) end
    turn(me)
  end
end

-- When a job of a workflow does not succeed, the workflow's error job runs now, unless the whole workflow is cancelled.
-- In its message what happened takes the place of the mark.
local function call_for_help(state, value)
  local known, me = redis.call('HMGET', job, 'workflow', 'task'), id
  local workflow = known[1] and prefix .. 'workflow:' .. known[1]
  local on_error = workflow and redis.call('HGET', workflow, 'on_error')
  if not on_error or on_error == id or redis.call('HEXISTS', workflow, 'cancelled') == 1 then return end
  redis.call('HDEL', workflow, 'on_error')
  turn(on_error)
  local message, mark = redis.call('GET', prefix .. 'message:' .. id), '"error of ' .. known[1] .. '"'
  if not message or redis.call('EXISTS', job) == 0 then return turn(me) end
  local from, to = string.find(message, mark, 1, true)
  local told = '{"job":' .. cjson.encode(me) .. ',"task":' .. cjson.encode(known[2]) .. ',"state":' ..
    cjson.encode(state) .. ',"error":' .. value .. '}'
  redis.call('SET', prefix .. 'message:' .. id, string.sub(message, 1, from - 1) .. told .. string.sub(message, to + 1))
  redis.call('HSET', job, 'due', now())
  publish_later(now())
  turn(me)
end

-- Return the jobs that come after one, and forget that they do: whoever asks ends them.
local function take_after(before)
  local known = redis.call('HMGET', prefix .. 'job:' .. before, 'workflow', 'before')
  if not known[2] then return {} end
  local workflow, field = prefix .. 'workflow:' .. known[1], 'after:' .. known[2]
  local after = redis.call('HGET', workflow, field)
  redis.call('HDEL', workflow, field)
  return after and cjson.decode(after) or {}
end

-- End the job. Of a FAILURE that is to be in a group, also say what was raised, what it said and where.
local function finish(from, state, value, exception, detail, place)
  if state ~= 'SUCCESS' then call_for_help(state, value) end
  finish_one(from, state, value)
  if state == 'SUCCESS' then return end
  if exception then note_failure(exception, detail, place) end
  local first, ended, place = id, {id}, 1
  local reason = 'job ' .. id .. ', which this one waited for, ended as ' .. state
  local error = cjson.encode({type = 'TaskRevokedError', module = 'celery.exceptions', message = reason})
  while ended[place] do
    for _, each in ipairs(take_after(ended[place])) do
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
