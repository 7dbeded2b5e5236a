-- start: a worker is about to run a task: may it? If so, note that an attempt begins.
-- A retry's message may come before the attempt that asks for it has told so. It names that attempt, which tells it
-- from a copy and from what an attempt asks for that was given up. Then the RETRY is told here.
-- KEYS: job:{job_id}, events:{job_id}
-- ARGV: prefix, job_id, task, token, after, replaced, worker, retries, limit_key, most, interval, result_key, result,
--   result_ttl, redelivered, most_begun, version
-- Answers: go | unknown (no job: it may run) | given up (no job, and its process dies each time) | duplicate | parked |
--   forgotten, or the state in which the job has ended
--   after: the token of the attempt that asks for this one, '' if none does or nobody knows. replaced: how many tasks
--   were replaced before this one, '' for none.
--   most, interval: of the task's limit as its code has it: jobs at once, and ms between two beginnings; '' for any.
--   version: of a message that was changed before it was published, '' for one that was not.
--   limit_key: the value by which they are counted, '' for all together. result_key, result and result_ttl (s, 0 for
--   ever): what to tell Celery's result backend if it runs; key '' for nothing. redelivered: whether the message was
--   delivered before. most_begun: how often a task that is no job may begin and not end.
-- include: reasons, job, state, events, queues, copies, history, tell, held, expiry, wake
-- include rarely: lapse, retried, finish, limits

local EARLY = 1000  -- ms; a worker whose clock is ahead by more begins nothing before it is due

turn(job_id)
local known = redis.call('HMGET', job, 'state', 'task', 'token', 'due', 'cancelled', 'retries', 'parked', 'delayed',
  'queue', 'handed_on', 'nesting', 'attempt', 'next_due', 'asker', 'priority', 'created_at', 'number', 'expires',
  'expiring', 'turn', 'copies', 'shared_turn', 'other', 'version', 'version_of', 'on_hold')
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
  rare.finish(state, 'REVOKED', CANCELLED)
  return 'REVOKED'
end
if known[3] == token then return 'go' end
if known[24] and known[25] == retries and known[24] ~= version and known[2] == task and (tonumber(replaced) or 0) == 0 then
  return 'duplicate'  -- of before the job was changed
end
if known[26] then
  dequeued()
  return 'parked'
end
if known[21] then arrived() end
if after ~= '' and after ~= known[14] then return 'duplicate' end  -- it was given up before it asked
local queue = known[9] .. ':' .. (known[15] or '')

-- Its message has come, and no other is to be published.
local function begins()
  if dequeued(queue) then return end
  redis.call('ZREM', prefix .. 'later', pack(id))
  redis.call('ZREM', prefix .. 'outbox', pack(id))
end

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
    rare.retried(state, redis.call('GET', prefix .. 'retry:' .. id) or 'null')
    state, runs, known[17] = 'RETRY', false, redis.call('HGET', job, 'number')
  elseif known[10] and not is_next or is_held and not known[10] and not (is_next and known[13]) then
    return 'duplicate'
  end
elseif known[11] or retries < tonumber(known[6] or 0) then
  return 'duplicate'  -- of a message that was followed by a retry's, or by that of the task in its place
elseif runs and retries > tonumber(known[6] or 0) and after == known[3] then
  rare.retried(state, redis.call('GET', prefix .. 'retry:' .. id) or 'null')
  state, known[17] = 'RETRY', redis.call('HGET', job, 'number')
elseif runs then
  if is_held or known[10] then return 'duplicate' end
  rare.lapse(state)
  state, known[4], known[17] = redis.call('HGET', job, 'state'), false, redis.call('HGET', job, 'number')
  if ENDED[state] then return state end
elseif state == 'RETRY' and retries <= tonumber(known[6] or -1) then
  return 'duplicate'  -- of the message that began before
end
local may_expire = known[18] or known[19]
if may_expire and has_expired() then
  rare.finish(state, 'REVOKED', EXPIRED)
  return 'REVOKED'
end
if known[2] ~= task then
  redis.call('HSET', job, 'token', token, 'worker', worker, 'nesting', nesting, 'retries', retries, 'other', 1)
  redis.call('HDEL', job, 'handed_on', 'next_due', 'expiring')
  if may_expire then redis.call('ZREM', expiring, packed) end
  redis.call('ZADD', prefix .. 'held', time + LEASE, packed)
  begins()
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

local bounds, limited = most .. ' ' .. interval, false
local its = redis.call('HMGET', prefix .. 'limits', 'code\n' .. task, 'task\n' .. task, 'of\n' .. task)
if bounds ~= (its[1] or ' ') then rare.declare(task, bounds) end
if bounds ~= ' ' or limit_key ~= '' or its[2] then
  local limit = limit_key == '' and task or task .. '\n' .. limit_key
  limited = true
  if not rare.pass(limit, known[4] or time) then return 'parked' end
end
if its[3] then
  limited = true
  if not rare.pass('\n' .. its[3], known[4] or time) then return 'parked' end
end

local attempt, number = (known[12] or 0) + 1, (known[17] or 0) + 1
redis.call('HSET', job, 'state', 'STARTED', 'started_at', time, 'token', token, 'worker', worker, 'retries', retries,
  'attempt', attempt, 'number', number)
begins()
if known[8] or known[10] or known[11] or known[13] or known[19] or known[20] or known[22] or known[23] or limited then
  redis.call('HDEL', job, 'turn', 'shared_turn', 'delayed', 'handed_on', 'next_due', 'nesting', 'other', 'expiring')
end
if may_expire then redis.call('ZREM', expiring, packed) end
if nesting > 0 then redis.call('HSET', job, 'nesting', nesting) end
redis.call('ZADD', prefix .. 'held', time + LEASE, packed)
if state ~= 'PENDING' then set_value('null') end
move_state(state, 'STARTED', known[16])
local waited = known[4] and math.max(0, time - known[4])
count(time, known[9], known[2], 'w' .. (waited and bucket_of(waited) or ''))
if waited then
  count(time, known[9], known[2], 'W', waited)
  -- A worker holds what is delayed, and begins it before others that came earlier: that overtakes nobody.
  local reached = known[8] and math.huge or tonumber(redis.call('HGET', prefix .. 'reached', queue) or math.huge)
  if tonumber(known[4]) > reached then redis.call('HSET', prefix .. 'reached', queue, known[4]) end
end
emit('state', string.format('{"state":"STARTED","attempt":%d,"started_at":%.0f}', attempt, time), number)
tell(result_key, result, result_ttl)
return 'go'
