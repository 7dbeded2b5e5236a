"""
What is done to the ledger in one step, as Lua scripts: whatever dies, a job is never half-changed.

Keys, all with the deployment's prefix:

====================  ==============================================================================================
``job:{id}``          hash: ``record`` and ``input`` (JSON, as submitted), ``state``, ``attempt``, ``started_at``,
                      ``finished_at``, ``result`` or ``error`` (JSON), ``progress``, ``number`` (of the last event),
                      ``cancelled`` (the error to end with), ``token`` (of the attempt under way), and what the
                      scripts need at hand
``events:{id}``       list of the job's last events, numbered without gaps; also the channel they are published on. (A
                      stream would take 4 KB for the first event, and have no use for its ids.)
``index:…``           sorted sets of job ids by time of submission: ``all``, ``owner:…``, ``task:…``, ``tag:…``,
                      ``state:…``
``open``              hash: how many unfinished jobs an owner has
``due``               sorted set of finished jobs by the time that they are to be forgotten
``gone:{id}``         the owner of a job that was forgotten
``key:{…}``           hash: an idempotency key's reservation
``pace``              hash: how long jobs of a task have waited and run of late, in ms
====================  ==============================================================================================

All times in scores and deadlines are the server's, in ms, so that the processes' own clocks need not agree.
"""

__all__ = ("ACCEPT", "CANCEL", "EVENTS", "FINISH", "LIST", "REPORT", "START", "SWEEP", "WITHDRAW")

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

local function finish(from, state, finished_at, field, value)
  local known = redis.call('HMGET', job, 'ttl', 'owner', 'begun', 'task')
  redis.call('HSET', job, 'state', state, 'finished_at', finished_at, field, value)
  redis.call('HDEL', job, 'progress', 'token', 'begun', 'due', 'ttl', 'retries')
  move(from, state)
  local left = redis.call('HINCRBY', prefix .. 'open', known[2], -1)
  if left <= 0 then redis.call('HDEL', prefix .. 'open', known[2]) end
  local time = now()
  if known[3] and state == 'SUCCESS' then pace(known[4] .. ' run', time - known[3]) end
  redis.call('ZADD', prefix .. 'due', time + known[1], id)
  event('end', '{}')
  redis.call('PEXPIRE', events, math.min(known[1], 3600000))
end
"""

#: ARGV: prefix, id, record, input, owner, task, ttl, delay, most unfinished ('' for any number), idempotency key
#: ('' for none), its fingerprint, its ttl, its lease, tags…
#: Returns one of: accepted | taken-over | exists | full | other | in-flight | replay, response
ACCEPT = (
    _COMMON
    + """
local owner, task, most, reservation = ARGV[5], ARGV[6], ARGV[9], ARGV[10]
local time = now()
if reservation ~= '' then
  reservation = prefix .. 'key:' .. reservation
  local known = redis.call('HMGET', reservation, 'fingerprint', 'response', 'lease')
  if known[1] then
    if known[1] ~= ARGV[11] then return {'other'} end
    if known[2] then return {'replay', known[2]} end
    if time < tonumber(known[3]) then return {'in-flight'} end
    redis.call('HSET', reservation, 'lease', time + ARGV[13])
    return {'taken-over'}
  end
end
if redis.call('EXISTS', job) == 1 then return {'exists'} end
if most ~= '' and tonumber(redis.call('HGET', prefix .. 'open', owner) or 0) >= tonumber(most) then return {'full'} end
redis.call('HSET', job, 'record', ARGV[3], 'input', ARGV[4], 'owner', owner, 'task', task, 'ttl', ARGV[7],
  'state', 'PENDING', 'created', time, 'due', time + ARGV[8])
redis.call('HINCRBY', prefix .. 'open', owner, 1)
redis.call('DEL', prefix .. 'gone:' .. id)
redis.call('ZADD', index('all'), time, id)
redis.call('ZADD', index('task:' .. task), time, id)
redis.call('ZADD', index('state:PENDING'), time, id)
if owner ~= '' then redis.call('ZADD', index('owner:' .. owner), time, id) end
for place = 14, #ARGV do redis.call('ZADD', index('tag:' .. ARGV[place]), time, id) end
if reservation ~= '' then
  redis.call('HSET', reservation, 'fingerprint', ARGV[11], 'lease', time + ARGV[13])
  redis.call('PEXPIRE', reservation, ARGV[12])
end
return {'accepted'}
"""
)

_FORGET = """
local function forget()
  local known = redis.call('HMGET', job, 'owner', 'task', 'record', 'state')
  if not known[4] then return end
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
if attempt == 1 then pace(known[2] .. ' wait', math.max(0, time - known[4])) end
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

#: ARGV: prefix, id, state, finished_at, result | error, its JSON. Returns whether this was the job's end.
FINISH = (
    _COMMON
    + """
local from = redis.call('HGET', job, 'state')
if not from or ENDED[from] then return 0 end
finish(from, ARGV[3], ARGV[4], ARGV[5], ARGV[6])
return 1
"""
)

#: ARGV: prefix, id, time, the error's JSON, whether to leave a running job alone ('1' | '').
#: A job that has not begun ends here; one that runs is marked. Returns the state it was in, or nothing for no job.
CANCEL = (
    _COMMON
    + """
local state = redis.call('HGET', job, 'state')
if not state or ENDED[state] then return state end
if bucket(state) ~= 'STARTED' then
  finish(state, 'REVOKED', ARGV[3], 'error', ARGV[4])
elseif ARGV[5] == '' then
  redis.call('HSET', job, 'cancelled', ARGV[4])
end
return state
"""
)

#: ARGV: prefix, id, number after which, how many at most. Returns the last event's number, the first kept one's, then
#: events as ``kind data``, the one after the asked number first, or the first kept one.
EVENTS = (
    _COMMON
    + """
local after, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local last = tonumber(redis.call('HGET', job, 'number') or 0)
local first = last - redis.call('LLEN', events) + 1
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
  id, job, events = each, prefix .. 'job:' .. each, prefix .. 'events:' .. each
  local known = forget()
  if known then redis.call('SET', prefix .. 'gone:' .. id, known[1], 'PX', ARGV[3]) end
  redis.call('ZREM', prefix .. 'due', id)
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
