-- start: a worker is about to run a task: may it? If so, note that an attempt begins.
-- A retry's message may come before the attempt that asks for it has told so. It names that attempt, which tells it
-- from a copy and from what an attempt asks for that was given up. Then the RETRY is told here.
-- KEYS: job:{job_id}, events:{job_id}
-- ARGV: prefix, job_id, task, token, after, replaced, worker, retries, limit_key, most, interval, result_key, result,
--   result_ttl, redelivered, most_begun
-- Answers: go | unknown (no job: it may run) | given up (no job, and its process dies each time) | duplicate | parked |
--   forgotten, or the state in which the job has ended
--   after: the token of the attempt that asks for this one, '' if none does or nobody knows. replaced: how many tasks
--   were replaced before this one, '' for none.
--   most, interval: of the task's limit as its code has it: jobs at once, and ms between two beginnings; '' for any.
--   limit_key: the value by which they are counted, '' for all together. result_key, result and result_ttl (s, 0 for
--   ever): what to tell Celery's result backend if it runs; key '' for nothing. redelivered: whether the message was
--   delivered before. most_begun: how often a task that is no job may begin and not end.
-- include: lapse, retried, tell, held, expiry, limits

local EARLY = 1000  -- ms; a worker whose clock is ahead by more begins nothing before it is due

turn(job_id)
local known = redis.call('HMGET', job, 'state', 'task', 'token', 'due', 'cancelled', 'retries', 'parked', 'delayed',
  'queue', 'handed_on', 'nesting', 'attempt', 'next_due', 'asker')
local state = known[1]
if not state then
  if redis.call('EXISTS', prefix .. 'gone:' .. id) == 1 then return 'forgotten' end
  if redelivered ~= '' then
    local begun = prefix .. 'begun:' .. id
    if redis.call('INCR', begun) >= tonumber(most_begun) then return 'given up' end
    redis.call('PEXPIRE', begun, 86400000)
  end
  tell(result_key, result, result_ttl)
  return 'unknown'
end
if ENDED[state] then return state end
if known[5] then
  finish(state, 'REVOKED', CANCELLED)
  return 'REVOKED'
end
if known[3] == token then return 'go' end
arrived()
if after ~= '' and after ~= known[14] then return 'duplicate' end  -- it was given up before it asked
retries = tonumber(retries)
local time, packed = now(), pack(id)
local runs = bucket(state) == 'STARTED'
local is_held = runs and time < tonumber(redis.call('ZSCORE', prefix .. 'held', packed) or 0)
local nesting = tonumber(replaced) or 0
local is_part = known[2] ~= task or nesting > 0  -- what the job's task was replaced by
if is_part then
  local its = tonumber(known[11] or 0)
  local is_next = nesting == 0 or nesting > its
  if nesting > 0 and nesting < its then return 'duplicate' end
  -- Of the message that began before, or of one that this one's followed:
  if not is_next and (retries < tonumber(known[6] or 0) or state == 'RETRY' and retries <= tonumber(known[6] or -1)) then
    return 'duplicate'
  end
  if runs and retries > 0 and nesting == its and after ~= '' and after == known[3] then
    retried(state, redis.call('GET', prefix .. 'retry:' .. id) or 'null')
    state, runs = 'RETRY', false
  elseif known[10] and not is_next or is_held and not known[10] and not (is_next and known[13]) then
    return 'duplicate'
  end
elseif known[11] or retries < tonumber(known[6] or 0) then
  return 'duplicate'  -- of a message that was followed by a retry's, or by that of the task in its place
elseif runs and retries > tonumber(known[6] or 0) and after == known[3] then
  retried(state, redis.call('GET', prefix .. 'retry:' .. id) or 'null')
  state = 'RETRY'
elseif runs then
  if is_held or known[10] then return 'duplicate' end
  lapse(state)
  state, known[4] = redis.call('HGET', job, 'state'), false
  if ENDED[state] then return state end
elseif state == 'RETRY' and retries <= tonumber(known[6] or -1) then
  return 'duplicate'  -- of the message that began before
end
if has_expired() then
  finish(state, 'REVOKED', EXPIRED)
  return 'REVOKED'
end
if known[2] ~= task then
  redis.call('HSET', job, 'token', token, 'worker', worker, 'nesting', nesting, 'retries', retries, 'other', 1)
  redis.call('HDEL', job, 'handed_on', 'next_due')
  redis.call('ZREM', expiring, packed)
  redis.call('ZADD', prefix .. 'held', time + LEASE, packed)
  dequeued()
  if not runs then
    redis.call('HSET', job, 'state', 'STARTED', 'started_at', time)
    move_state(state, 'STARTED')
    emit('state', cjson.encode({state = 'STARTED', attempt = tonumber(known[12] or 0), started_at = time}))
  end
  tell(result_key, result, result_ttl)
  return 'go'
end
if known[7] then return 'parked' end
if known[4] and tonumber(known[4]) > time + EARLY then
  dequeued()
  publish_later(known[4])
  return 'parked'
end

local bounds = most .. ' ' .. interval
local its = redis.call('HMGET', limits, 'code\n' .. task, 'task\n' .. task, 'of\n' .. task)
if bounds ~= (its[1] or ' ') then declare(task, bounds) end
if bounds ~= ' ' or limit_key ~= '' or its[2] then
  local limit = limit_key == '' and task or task .. '\n' .. limit_key
  if not pass(limit, known[4] or time) then return 'parked' end
end
if its[3] and not pass('\n' .. its[3], known[4] or time) then return 'parked' end

local attempt, queue = redis.call('HINCRBY', job, 'attempt', 1), queue_name()
dequeued()
redis.call('HSET', job, 'state', 'STARTED', 'started_at', time, 'token', token, 'worker', worker, 'retries', retries)
redis.call('HDEL', job, 'turn', 'shared_turn', 'delayed', 'handed_on', 'next_due', 'nesting', 'other')
redis.call('ZREM', expiring, packed)
if nesting > 0 then redis.call('HSET', job, 'nesting', nesting) end
redis.call('ZADD', prefix .. 'held', time + LEASE, packed)
set_value('null')
move_state(state, 'STARTED')
local waited = known[4] and math.max(0, time - known[4])
count(time, known[9], known[2], 'w' .. (waited and bucket_of(waited) or ''))
if waited then
  count(time, known[9], known[2], 'W', waited)
  if attempt == 1 then note_pace(known[2] .. ' wait', waited) end
  -- A worker holds what is delayed, and begins it before others that came earlier: that overtakes nobody.
  local reached = known[8] and math.huge or tonumber(redis.call('HGET', prefix .. 'reached', queue) or math.huge)
  if tonumber(known[4]) > reached then redis.call('HSET', prefix .. 'reached', queue, known[4]) end
end
emit('state', cjson.encode({state = 'STARTED', attempt = attempt, started_at = time}))
tell(result_key, result, result_ttl)
return 'go'
