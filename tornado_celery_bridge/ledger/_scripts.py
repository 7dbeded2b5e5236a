"""
What is done to the ledger in one step, as Lua scripts: whatever dies, a job is never half-changed.

Keys, all with the deployment's prefix:

====================  ==============================================================================================
``job:{id}``          hash: ``record`` and ``input`` (JSON, as submitted; a large input is a blob, and this its name,
                      quoted), ``state``, ``attempt``, ``started_at``, ``finished_at``, ``result``, ``stored`` (a
                      large one: its blob) or ``error`` (JSON), ``blobs`` (the names of all that go with the job, each
                      with a blank after it), ``progress``, ``number`` (of the last event),
                      ``cancelled`` (the error to end with), ``token`` (of the attempt under way), and what the
                      scripts need at hand
``events:{id}``       list of the job's last events, numbered without gaps; also the channel they are published on. (A
                      stream would take 4 KB for the first event, and have no use for its ids.)
``index:…``           sorted sets of job ids by time of submission: ``all``, ``owner:…``, ``task:…``, ``tag:…``,
                      ``state:…``
``open``              hash: how many unfinished jobs an owner has
``workflow:{id}``     hash: a workflow's ``record`` (JSON, as submitted), ``owner``, ``jobs`` (JSON, their ids),
                      ``open`` (how many have not ended), ``cancelled`` (when all of it was), ``after:…`` (JSON, the
                      ids of the jobs that come after those that have this name as their ``before``), and ``ttl``
``due``               sorted set of finished jobs by the time that they are to be forgotten, and of ``workflow:{id}``
``gone:{id}``         the owner of a job that was forgotten; ``gone:workflow:{id}`` of a workflow
``key:{…}``           hash: an idempotency key's reservation
``blobs``             sorted set of blobs that are nobody's, by the time that they are to be removed from the store
``pace``              hash: how long jobs of a task have waited and run of late, in ms
====================  ==============================================================================================

A job of a workflow knows what comes after it: when it ends otherwise than in SUCCESS, Celery never runs that, so it
ends in the same step. The jobs of a workflow are kept until all of them have ended, and are forgotten with it.

All times in scores and deadlines are the server's, in ms, so that the processes' own clocks need not agree.
"""

__all__ = (
    "ACCEPT",
    "ACCEPT_WORKFLOW",
    "ANNOUNCE",
    "CANCEL",
    "CANCEL_WORKFLOW",
    "CLAIM",
    "EVENTS",
    "FINISH",
    "LIST",
    "READ_WORKFLOW",
    "REPORT",
    "START",
    "SWEEP",
    "UNCLAIMED",
    "WITHDRAW",
    "WITHDRAW_WORKFLOW",
)

_COMMON = """
local prefix, id = ARGV[1], ARGV[2]
local job = prefix .. 'job:' .. id
local events = prefix .. 'events:' .. id
local ENDED = {SUCCESS = true, FAILURE = true, REVOKED = true}

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The states that jobs are listed by; a state of the task's own, such as PROGRESS, is one of running.
local function bucket(state)
  if ENDED[state] or state == 'PENDING' or state == 'RETRY' then return state end
  return 'STARTED'
end

local function index(name) return prefix .. 'index:' .. name end

local function move(from, to)
  if bucket(from) == bucket(to) then return end
  redis.call('ZREM', index('state:' .. bucket(from)), id)
  redis.call('ZADD', index('state:' .. bucket(to)), redis.call('HGET', job, 'created'), id)
end

local function event(kind, data)
  local number = redis.call('HINCRBY', job, 'number', 1)
  if redis.call('RPUSH', events, kind .. ' ' .. data) > 1000 then redis.call('LPOP', events) end
  redis.call('PUBLISH', events, number .. ' ' .. kind .. ' ' .. data)
end

-- A moving average over some ten jobs.
local function pace(name, ms)
  local before = redis.call('HGET', prefix .. 'pace', name)
  local mean = before and before * 0.8 + ms * 0.2 or ms
  redis.call('HSET', prefix .. 'pace', name, string.format('%.0f', mean))
end

-- Turn to another job.
local function turn(to)
  id, job, events = to, prefix .. 'job:' .. to, prefix .. 'events:' .. to
end

-- A blob is the job's, and goes when it goes.
local function claim(name)
  redis.call('ZREM', prefix .. 'blobs', name)
  redis.call('HSET', job, 'blobs', (redis.call('HGET', job, 'blobs') or '') .. name .. ' ')
end

-- The last job of a workflow has ended.
local function finish_workflow(name)
  local workflow = prefix .. 'workflow:' .. name
  local known = redis.call('HMGET', workflow, 'ttl', 'jobs')
  local forgotten = now() + known[1]
  for _, each in ipairs(cjson.decode(known[2])) do redis.call('ZADD', prefix .. 'due', forgotten, each) end
  redis.call('ZADD', prefix .. 'due', forgotten, 'workflow:' .. name)
  local its_events = prefix .. 'events:' .. name
  redis.call('RPUSH', its_events, 'end {}')
  redis.call('PUBLISH', its_events, '1 end {}')
  redis.call('PEXPIRE', its_events, math.min(known[1], 3600000))
end

local function finish_one(from, state, finished_at, field, value)
  local known = redis.call('HMGET', job, 'ttl', 'owner', 'begun', 'task', 'workflow')
  redis.call('HSET', job, 'state', state, 'finished_at', finished_at, field, value)
  redis.call('HDEL', job, 'progress', 'token', 'begun', 'due', 'ttl', 'retries')
  move(from, state)
  local left = redis.call('HINCRBY', prefix .. 'open', known[2], -1)
  if left <= 0 then redis.call('HDEL', prefix .. 'open', known[2]) end
  local time = now()
  if known[3] and state == 'SUCCESS' then pace(known[4] .. ' run', time - known[3]) end
  event('end', '{}')
  redis.call('PEXPIRE', events, math.min(known[1], 3600000))
  if not known[5] then
    redis.call('ZADD', prefix .. 'due', time + known[1], id)
  elseif redis.call('HINCRBY', prefix .. 'workflow:' .. known[5], 'open', -1) <= 0 then
    finish_workflow(known[5])
  end
end

-- The jobs that come after one; whoever asks ends them, so nobody need do that again.
local function take_after(before)
  local known = redis.call('HMGET', prefix .. 'job:' .. before, 'workflow', 'before')
  if not known[2] then return {} end
  local workflow, field = prefix .. 'workflow:' .. known[1], 'after:' .. known[2]
  local after = redis.call('HGET', workflow, field)
  redis.call('HDEL', workflow, field)
  return after and cjson.decode(after) or {}
end

local function finish(from, state, finished_at, field, value)
  finish_one(from, state, finished_at, field, value)
  if state == 'SUCCESS' then return end
  local first, ended, place = id, {id}, 1
  local reason = 'job ' .. id .. ', which this one waited for, ended as ' .. state
  local error = cjson.encode({type = 'TaskRevokedError', module = 'celery.exceptions', message = reason})
  while ended[place] do
    for _, each in ipairs(take_after(ended[place])) do
      turn(each)
      local was = redis.call('HGET', job, 'state')
      if was and not ENDED[was] then
        finish_one(was, 'REVOKED', finished_at, 'error', error)
        ended[#ended + 1] = each
      end
    end
    place = place + 1
  end
  turn(first)
end

-- End a job that has not begun, mark one that runs; return the state it was in.
local function cancel(finished_at, error, unless_begun)
  local state = redis.call('HGET', job, 'state')
  if not state or ENDED[state] then return state end
  if bucket(state) ~= 'STARTED' then
    finish(state, 'REVOKED', finished_at, 'error', error)
  elseif not unless_begun then
    redis.call('HSET', job, 'cancelled', error)
  end
  return state
end
"""

_WRITE = """
-- Hold an idempotency key; return what to answer if it is held already.
local function reserve(name, fingerprint, ttl, lease)
  if name == '' then return end
  local key, time = prefix .. 'key:' .. name, now()
  local known = redis.call('HMGET', key, 'fingerprint', 'response', 'lease')
  if known[1] then
    if known[1] ~= fingerprint then return {'other'} end
    if known[2] then return {'replay', known[2]} end
    if time < tonumber(known[3]) then return {'in-flight'} end
    redis.call('HSET', key, 'lease', time + lease)
    return {'taken-over'}
  end
  return nil, function()
    redis.call('HSET', key, 'fingerprint', fingerprint, 'lease', time + lease)
    redis.call('PEXPIRE', key, ttl)
  end
end

local function is_full(owner, most, more)
  return most ~= '' and tonumber(redis.call('HGET', prefix .. 'open', owner) or 0) + more > tonumber(most)
end

local function write(record, input, owner, task, ttl, delay, tags)
  local time = now()
  redis.call('HSET', job, 'record', record, 'input', input, 'owner', owner, 'task', task, 'ttl', ttl,
    'state', 'PENDING', 'created', time)
  if delay then redis.call('HSET', job, 'due', time + delay) end
  local blob = string.match(input, '^"(.*)"$')
  if blob then claim(blob) end
  redis.call('HINCRBY', prefix .. 'open', owner, 1)
  redis.call('DEL', prefix .. 'gone:' .. id)
  redis.call('ZADD', index('all'), time, id)
  redis.call('ZADD', index('task:' .. task), time, id)
  redis.call('ZADD', index('state:PENDING'), time, id)
  if owner ~= '' then redis.call('ZADD', index('owner:' .. owner), time, id) end
  for _, tag in ipairs(tags) do redis.call('ZADD', index('tag:' .. tag), time, id) end
end
"""

#: ARGV: prefix, id, record, input, owner, task, ttl, delay, most unfinished ('' for any number), idempotency key
#: ('' for none), its fingerprint, its ttl, its lease, tags…
#: Returns one of: accepted | taken-over | exists | full | other | in-flight | replay, response
ACCEPT = (
    _COMMON
    + _WRITE
    + """
local held, hold = reserve(ARGV[10], ARGV[11], ARGV[12], ARGV[13])
if held then return held end
if redis.call('EXISTS', job) == 1 then return {'exists'} end
if is_full(ARGV[5], ARGV[9], 1) then return {'full'} end
local tags = {}
for place = 14, #ARGV do tags[#tags + 1] = ARGV[place] end
write(ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], tags)
if hold then hold() end
return {'accepted'}
"""
)

#: ARGV: prefix, workflow's id, record, owner, ttl, most unfinished ('' for any number), idempotency key ('' for none),
#: its fingerprint, its ttl, its lease, what comes after what (JSON: lists of ids, by name), then of each job: id,
#: record, input, task, delay ('' for one that others come before), before ('' for none), tags (JSON).
#: Returns what ACCEPT does.
ACCEPT_WORKFLOW = (
    _COMMON
    + _WRITE
    + """
local name, owner, ttl = id, ARGV[4], ARGV[5]
local held, hold = reserve(ARGV[7], ARGV[8], ARGV[9], ARGV[10])
if held then return held end
local workflow = prefix .. 'workflow:' .. name
if redis.call('EXISTS', workflow) == 1 then return {'exists'} end
local ids = {}
for place = 12, #ARGV, 7 do ids[#ids + 1] = ARGV[place] end
if is_full(owner, ARGV[6], #ids) then return {'full'} end
for place = 12, #ARGV, 7 do
  turn(ARGV[place])
  local delay, before = ARGV[place + 4], ARGV[place + 5]
  write(ARGV[place + 1], ARGV[place + 2], owner, ARGV[place + 3], ttl, delay ~= '' and delay,
    cjson.decode(ARGV[place + 6]))
  redis.call('HSET', job, 'workflow', name)
  if before ~= '' then redis.call('HSET', job, 'before', before) end
end
redis.call('HSET', workflow, 'record', ARGV[3], 'owner', owner, 'ttl', ttl, 'jobs', cjson.encode(ids), 'open', #ids)
for before, after in pairs(cjson.decode(ARGV[11])) do
  redis.call('HSET', workflow, 'after:' .. before, cjson.encode(after))
end
redis.call('DEL', prefix .. 'gone:workflow:' .. name)
if hold then hold() end
return {'accepted'}
"""
)

_FORGET = """
local function forget()
  local known = redis.call('HMGET', job, 'owner', 'task', 'record', 'state', 'blobs')
  if not known[4] then return end
  for name in string.gmatch(known[5] or '', '%S+') do redis.call('ZADD', prefix .. 'blobs', now(), name) end
  redis.call('ZREM', index('all'), id)
  redis.call('ZREM', index('task:' .. known[2]), id)
  redis.call('ZREM', index('state:' .. bucket(known[4])), id)
  redis.call('ZREM', index('owner:' .. known[1]), id)
  for _, tag in ipairs(cjson.decode(known[3]).tags) do redis.call('ZREM', index('tag:' .. tag), id) end
  redis.call('DEL', job, events)
  return known
end
"""

#: ARGV: prefix, id, idempotency key or ''. A job that was not published; one that a worker has seen stays.
WITHDRAW = (
    _COMMON
    + _FORGET
    + """
if redis.call('HGET', job, 'state') ~= 'PENDING' then return 0 end
local owner = forget()[1]
if redis.call('HINCRBY', prefix .. 'open', owner, -1) <= 0 then redis.call('HDEL', prefix .. 'open', owner) end
if ARGV[3] ~= '' then redis.call('DEL', prefix .. 'key:' .. ARGV[3]) end
return 1
"""
)

#: ARGV: prefix, workflow's id, idempotency key or ''. One that was not published; if a worker has seen any of its
#: jobs, all of it stays.
WITHDRAW_WORKFLOW = (
    _COMMON
    + _FORGET
    + """
local workflow = prefix .. 'workflow:' .. id
local jobs = redis.call('HGET', workflow, 'jobs')
if not jobs then return 0 end
jobs = cjson.decode(jobs)
for _, each in ipairs(jobs) do
  if redis.call('HGET', prefix .. 'job:' .. each, 'state') ~= 'PENDING' then return 0 end
end
for _, each in ipairs(jobs) do
  turn(each)
  local owner = forget()[1]
  if redis.call('HINCRBY', prefix .. 'open', owner, -1) <= 0 then redis.call('HDEL', prefix .. 'open', owner) end
end
redis.call('DEL', workflow)
if ARGV[3] ~= '' then redis.call('DEL', prefix .. 'key:' .. ARGV[3]) end
return 1
"""
)

#: ARGV: prefix, id, running task's name, token, redelivered or replaced ('1' | ''), started_at, worker, retries.
#: Returns go | unknown | duplicate, or the state in which the job has ended.
#: A retry's message may come before its predecessor has said that there will be one: its count tells it from a copy.
START = (
    _COMMON
    + """
local known = redis.call('HMGET', job, 'state', 'task', 'token', 'due', 'cancelled', 'retries')
local state = known[1]
if not state then return 'unknown' end
if ENDED[state] then return state end
if known[5] then
  finish(state, 'REVOKED', ARGV[6], 'error', known[5])
  return 'REVOKED'
end
if known[2] ~= ARGV[3] or known[3] == ARGV[4] then return 'go' end
local retries = tonumber(ARGV[8])
if ARGV[5] == '' and bucket(state) == 'STARTED' and retries <= tonumber(known[6] or 0) then return 'duplicate' end
local time = now()
local attempt = redis.call('HINCRBY', job, 'attempt', 1)
redis.call('HSET', job, 'state', 'STARTED', 'started_at', ARGV[6], 'token', ARGV[4], 'begun', time, 'worker', ARGV[7],
  'retries', retries)
redis.call('HDEL', job, 'progress', 'error')
move(state, 'STARTED')
if attempt == 1 and known[4] then pace(known[2] .. ' wait', math.max(0, time - known[4])) end
event('state', cjson.encode({state = 'STARTED', attempt = attempt, started_at = ARGV[6]}))
return 'go'
"""
)

#: ARGV: prefix, id, kind of event (state | progress | log), its data, state ('' leaves it), field of the job ('' for
#: none), its value, the retries of an attempt that ends with this ('' for one that goes on).
#: Returns go | unknown | cancelled, or the state in which the job has ended.
REPORT = (
    _COMMON
    + """
local known = redis.call('HMGET', job, 'state', 'cancelled', 'retries')
if not known[1] then return 'unknown' end
if ENDED[known[1]] then return known[1] end
if ARGV[8] ~= '' and known[3] ~= ARGV[8] then return 'go' end
if ARGV[5] ~= '' then
  move(known[1], ARGV[5])
  redis.call('HSET', job, 'state', ARGV[5])
end
if ARGV[6] ~= '' then redis.call('HSET', job, ARGV[6], ARGV[7]) end
event(ARGV[3], ARGV[4])
return known[2] and 'cancelled' or 'go'
"""
)

#: ARGV: prefix, id, state, finished_at, result | stored | error, its JSON. Returns whether this was the job's end.
FINISH = (
    _COMMON
    + """
local from = redis.call('HGET', job, 'state')
if not from or ENDED[from] then return 0 end
finish(from, ARGV[3], ARGV[4], ARGV[5], ARGV[6])
if ARGV[5] == 'stored' then claim(cjson.decode(ARGV[6])[1]) end
return 1
"""
)

#: ARGV: prefix, id, time, the error's JSON, whether to leave a running job alone ('1' | '').
#: A job that has not begun ends here; one that runs is marked. Returns the state it was in, or nothing for no job.
CANCEL = (
    _COMMON
    + """
return cancel(ARGV[3], ARGV[4], ARGV[5] ~= '')
"""
)

#: ARGV: prefix, workflow's id, time, the error's JSON, whether it is all of the workflow ('1' | ''), ids of jobs…
CANCEL_WORKFLOW = (
    _COMMON
    + """
local workflow = prefix .. 'workflow:' .. id
if tonumber(redis.call('HGET', workflow, 'open') or 0) <= 0 then return end
if ARGV[5] ~= '' then redis.call('HSET', workflow, 'cancelled', ARGV[3]) end
-- From the last to the first, so that each is said to be cancelled, and not to have waited for one that was.
for place = #ARGV, 6, -1 do
  turn(ARGV[place])
  cancel(ARGV[3], ARGV[4], false)
end
"""
)

#: ARGV: prefix, workflow's id, fields…
#: Returns {owner} of one that was forgotten; {} if there was none; or {record, cancelled or '', fields of each job…}.
READ_WORKFLOW = (
    _COMMON
    + """
local known = redis.call('HMGET', prefix .. 'workflow:' .. id, 'record', 'cancelled', 'jobs')
if not known[1] then return {redis.call('GET', prefix .. 'gone:workflow:' .. id) or nil} end
local found = {known[1], known[2] or ''}
for _, each in ipairs(cjson.decode(known[3])) do
  found[#found + 1] = redis.call('HMGET', prefix .. 'job:' .. each, unpack(ARGV, 3))
end
return found
"""
)

#: ARGV: prefix, id, number after which, how many at most. Returns the last event's number, the first kept one's, then
#: events as ``kind data``, the one after the asked number first, or the first kept one.
EVENTS = (
    _COMMON
    + """
local after, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local kept = redis.call('LLEN', events)
local last = tonumber(redis.call('HGET', job, 'number') or kept)  -- a workflow, which is no job, has one event at most
local first = last - kept + 1
local from = math.max(0, after + 1 - first)
local found = redis.call('LRANGE', events, from, from + most - 1)
table.insert(found, 1, first)
table.insert(found, 1, last)
return found
"""
)

#: ARGV: prefix, '', for how long a forgotten job is remembered, how many at most. Returns how many.
SWEEP = (
    _COMMON
    + _FORGET
    + """
local due = redis.call('ZRANGEBYSCORE', prefix .. 'due', '-inf', now(), 'LIMIT', 0, ARGV[4])
for _, each in ipairs(due) do
  local owner
  if string.sub(each, 1, 9) == 'workflow:' then
    owner = redis.call('HGET', prefix .. each, 'owner')
    redis.call('DEL', prefix .. each)
  else
    turn(each)
    local known = forget()
    owner = known and known[1]
  end
  if owner then redis.call('SET', prefix .. 'gone:' .. each, owner, 'PX', ARGV[3]) end
  redis.call('ZREM', prefix .. 'due', each)
end
return #due
"""
)

#: ARGV: prefix, '', most jobs, most looked at, newest score or '+inf', id to come after at that score or '', oldest
#: score, fields (comma-separated), then the names of the indexes that a job must be in.
#: Returns {next score, next id} or {} at the end, then {id, fields…} of each job, newest first.
LIST = (
    _COMMON
    + """
local most, looks, newest, after, oldest = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
local fields = {}
for field in string.gmatch(ARGV[8], '[^,]+') do fields[#fields + 1] = field end
local smallest, others = nil, {}
for place = 9, #ARGV do
  local name = index(ARGV[place])
  local size = redis.call('ZCARD', name)
  if not smallest or size < smallest.size then
    if smallest then others[#others + 1] = smallest.name end
    smallest = {name = name, size = size}
  else
    others[#others + 1] = name
  end
end
local found, skip, looked = {{}}, 0, 0
while looked < looks do
  local chunk = redis.call('ZREVRANGEBYSCORE', smallest.name, newest, oldest, 'WITHSCORES', 'LIMIT', skip, 100)
  if #chunk == 0 then return found end
  for place = 1, #chunk, 2 do
    local each, score = chunk[place], chunk[place + 1]
    -- At one score ids come in falling order; the one to come after and all above it were seen before.
    if not (after ~= '' and score == newest and each >= after) then
      looked = looked + 1
      local fits = true
      for _, name in ipairs(others) do fits = fits and redis.call('ZSCORE', name, each) end
      if fits then
        local values = redis.call('HMGET', prefix .. 'job:' .. each, unpack(fields))
        table.insert(values, 1, each)
        found[#found + 1] = values
      end
      if #found > most or looked >= looks then
        found[1] = {score, each}
        return found
      end
    end
  end
  skip = skip + 100
end
return found
"""
)

#: ARGV: prefix, '', after how many ms they are to be removed, names of blobs… If a job claims one, it is kept.
ANNOUNCE = (
    _COMMON
    + """
for place = 4, #ARGV do redis.call('ZADD', prefix .. 'blobs', now() + ARGV[3], ARGV[place]) end
"""
)

#: ARGV: prefix, id, blob's name. Nothing is done for a job that is not there.
CLAIM = (
    _COMMON
    + """
if redis.call('EXISTS', job) == 1 then claim(ARGV[3]) end
"""
)

#: ARGV: prefix, '', how many at most. Returns the names of blobs that are to be removed now.
UNCLAIMED = (
    _COMMON
    + """
return redis.call('ZRANGEBYSCORE', prefix .. 'blobs', '-inf', now(), 'LIMIT', 0, ARGV[3])
"""
)
