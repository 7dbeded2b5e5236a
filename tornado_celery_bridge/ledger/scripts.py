"""
What is done to the ledger in one step, as Lua scripts: whatever dies, a job is never half-changed.

Keys, all with the deployment's prefix:

====================  ==============================================================================================
``job:{id}``          hash: the record's fields, ``state``, ``attempt``, ``started_at``, ``finished_at``, ``worker``,
                      ``number`` (of the last event), ``cancelled``, ``token`` (of the attempt under way), ``blobs``
                      (the names of all that go with the job, each with a blank after it), ``stored`` (that the value
                      is a blob), and what the scripts need at hand. Of a job that calls back also ``callback`` (the
                      delivery's id, a space, the receiver), and after its end ``delivery`` (waiting | delivered |
                      failed), ``tries`` (that failed). Of one that failed ``failure`` (its group's id). As long as
                      no field is over 64 bytes Redis packs it into a third of the memory; so what may be long has
                      keys of its own
``input:{id}``        JSON, as submitted; a large input is a blob, and this its name, quoted
``value:{id}``        JSON, what goes with the state: the progress, the result or its blob, or the error
``traceback:{id}``    of a job that failed, if its worker told, compressed: see ``_records.pack_traceback``
``message:{id}``      JSON of the Celery signature to publish if the job's message is lost; of a workflow, all of it
``retry:{id}``        JSON, the error for which a task has published a retry, until the ledger is told of its RETRY
``attempts:{id}``     list of the last attempts to call back, as JSON
``callbacks:{…}``     sorted set of ended jobs that are to call a receiver back, by when to try next; to claim one moves
                      it to the end of the claim's lease, so that one whose holder died comes up again
``callbacks``         sorted set of these receivers, by when to try the first of theirs
``events:{id}``       list of the job's last events, numbered without gaps; also the channel they are published on. (A
                      stream would take 4 KB for the first event, and have no use for its ids.)
``index:…``           sorted sets of job ids, packed, by ``created_at``: ``all``, ``owner:…``, ``task:…``,
                      ``tag:…``, ``state:…``, ``failure:…`` (a group's that have not been tried again)
``failures``          sorted set of groups of jobs that failed alike, by when one last did; ``failure:{id}`` hash: a
                      group's ``owner``, ``task``, ``exception``, ``place``, ``detail``, ``first``, ``last``, ``count``
``open``              hash: how many unfinished jobs an owner has
``queued:{queue}:…``  sorted set of the jobs whose message is in a queue, at a priority, by when they were due there
``reached``           hash: of each of these, when the latest that was begun was due
``held``              sorted set of the jobs that workers have begun, by the end of their lease
``later``             sorted set of the jobs that are to be published by a worker, by when
``outbox``            sorted set of the jobs that could not be published yet, by when they were accepted, in µs
``wake``              list: has an element when ``later`` or ``outbox`` has something new
``slots:{limit}``     set of the jobs that hold a slot of a limit; ``parked:{limit}`` sorted set of those that wait
``next:{limit}``      when the next job may begin by a limit's rate
``unique:{…}``        the unfinished job with this input, of a task that is unique
``paused``            hash: of each queue that no worker is to take from, since when
``leader``            which process looks for jobs that were lost
``workflow:{id}``     hash: a workflow's ``record`` (JSON, as submitted), ``owner``, ``jobs`` (JSON, their ids),
                      ``open`` (how many have not ended), ``cancelled`` (when all of it was), ``after:…`` (JSON, the
                      ids of the jobs that come after those that have this name as their ``before``), ``ttl``, and
                      ``on_error`` (the id of the job that runs when another one does not succeed, until that is known)
``due``               sorted set of finished jobs, packed, by the time that they are to be forgotten, and of
                      ``workflow:{id}``
``gone:{id}``         the owner of a job that was forgotten; ``gone:workflow:{id}`` of a workflow
``key:{…}``           hash: an idempotency key's reservation
``list:{…}``          ids of jobs that are followed as one, comma-separated
``blobs``             sorted set of blobs that are nobody's, by the time that they are to be removed from the store
``pace``              hash: how long jobs of a task have waited and run of late, in ms
``history:open``      hash: what has happened in the minute under way (``minute``, since 1970), by ``what series`` how
                      often. A series is a queue's name, the end of a line and a task's name
``history:all``       hash: what has happened since the beginning, up to that minute, as JSON for each series, and by
                      the name of ``''`` for all of them together; ``history:minute:{…}``, ``history:hour:{…}`` and
                      ``history:day:{…}`` the same of one of these, by its first minute
``workers``           sorted set of workers by when they were last heard of; ``worker:{name}`` hash: ``about`` (JSON)
                      and ``jobs`` (ids, comma-separated), for an hour
====================  ==============================================================================================

A job of a workflow knows what comes after it: when it ends otherwise than in SUCCESS, Celery never runs that, so it
ends in the same step. The jobs of a workflow are kept until all of them have ended, and are forgotten with it.

All times but ``created_at`` and ``eta`` are the server's, in ms, so that the processes' own clocks need not agree.
"""

__all__ = (
    "ACCEPT",
    "ACCEPT_WORKFLOW",
    "ANNOUNCE",
    "CANCEL",
    "CANCEL_WORKFLOW",
    "CLAIM",
    "CLAIM_CALLBACKS",
    "DEFER",
    "DELIVERY",
    "EVENTS",
    "FAILURES",
    "FINISH",
    "HISTORY",
    "KEEP",
    "LEASE",
    "LIST",
    "PAUSE",
    "PURGE",
    "QUEUES",
    "READ",
    "READ_WORKFLOW",
    "RECONCILE",
    "REPLAY",
    "REPORT",
    "RESOLVE",
    "SETTLE",
    "START",
    "SWEEP",
    "TAKE",
    "UNCLAIMED",
    "WITHDRAW",
    "WITHDRAW_WORKFLOW",
    "WORKERS",
)

_COMMON = """
local prefix, id = ARGV[1], ARGV[2]
local job = prefix .. 'job:' .. id
local events = prefix .. 'events:' .. id
local ENDED = {SUCCESS = true, FAILURE = true, REVOKED = true}
local LEASE = 10000  -- ms for which a worker holds a job without saying so again
local GRACE = 8000  -- ms after which a job that others have overtaken is looked for
local MAX_LOST = 3  -- so many attempts may be lost with their worker

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

-- A UUID in an index takes 16 bytes, not 36. The ledger takes no other id of 16.
local packed_ids = {}
local function pack(name)
  if packed_ids[name] then return packed_ids[name] end
  local packed = name
  if #name == 36 then
    local bytes, count = string.gsub(string.gsub(name, '-', ''), '%x%x', function(hex)
      return string.char(tonumber(hex, 16))
    end)
    if count == 16 and #bytes == 16 then packed = bytes end
  end
  packed_ids[name] = packed
  return packed
end

local function unpacked(packed)
  if #packed ~= 16 then return packed end
  local hex = string.gsub(packed, '.', function(byte) return string.format('%02x', string.byte(byte)) end)
  return string.gsub(hex, '^(........)(....)(....)(....)', '%1-%2-%3-%4-')
end

-- What goes with the state. Most results are null, and a key for that would cost more than all the rest of them.
local function set_value(value)
  if value == 'null' then
    redis.call('DEL', prefix .. 'value:' .. id)
  else
    redis.call('SET', prefix .. 'value:' .. id, value)
  end
end

local function move(from, to)
  if bucket(from) == bucket(to) then return end
  redis.call('ZREM', index('state:' .. bucket(from)), pack(id))
  redis.call('ZADD', index('state:' .. bucket(to)), redis.call('HGET', job, 'created_at'), pack(id))
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

-- How often what has happened. One minute is open, and counted in by fields, in a hash of its own. When it is over,
-- whoever counts next adds it to its hour, its day and all that was: once a minute, 0.1 ms for each series. So a
-- count costs a command, and nobody need be there to roll the minutes up.
-- What: a(ccepted), x (withdrawn), r(etried), l(ost with its worker), p(ublished again); w and a bucket for each
-- attempt that begins, W the ms that they waited; s(ucceeded), f(ailed) or v (revoked) and a bucket for each job that
-- ends, T the ms that they ran. Bucket k has what took up to 2^k ms, and longer than the one before; w, s, f or v
-- without a bucket, nobody knows how long.
local function add(slot, counts)
  for series, found in pairs(counts) do
    local known = redis.call('HGET', slot, series)
    local sum = known and cjson.decode(known) or {}
    for what, number in pairs(found) do sum[what] = (sum[what] or 0) + number end
    redis.call('HSET', slot, series, cjson.encode(sum))
  end
end

local function close_minute(minute)
  local SPANS = {minute = {1, 120}, hour = {60, 192}, day = {1440, 400}}  -- minutes, and how many of them are kept
  local open, counts, all = redis.call('HGETALL', prefix .. 'history:open'), {}, {}
  for place = 1, #open, 2 do
    local what, series = string.match(open[place], '^(%w+) (.*)$')
    if what then
      local number = tonumber(open[place + 1])
      counts[series] = counts[series] or {}
      counts[series][what] = number
      all[what] = (all[what] or 0) + number
    end
  end
  counts[''] = all
  for name, span in pairs(SPANS) do
    local first = minute - minute % span[1]
    local slot = prefix .. 'history:' .. name .. ':' .. string.format('%.0f', first)
    add(slot, counts)
    redis.call('PEXPIREAT', slot, string.format('%.0f', (first + span[1] * (span[2] + 1)) * 60000))
  end
  add(prefix .. 'history:all', counts)
  redis.call('DEL', prefix .. 'history:open')
end

local is_open = false

local function count(time, queue, task, what, by)
  local open = prefix .. 'history:open'
  if not is_open then
    local minute, known = math.floor(time / 60000), redis.call('HGET', open, 'minute')
    if known and minute > tonumber(known) then close_minute(tonumber(known)) end
    if not known or minute > tonumber(known) then
      -- A value of over 64 bytes makes a table of the hash, which else is a list that each count is searched in.
      redis.call('HSET', open, 'minute', string.format('%065.0f', minute))
    end
    is_open = true
  end
  redis.call('HINCRBY', open, what .. ' ' .. queue .. '\\n' .. task, by or 1)
end

-- The number of the bucket that has so many ms.
local function bucket_of(ms)
  if ms <= 1 then return 0 end
  local mantissa, exponent = math.frexp(ms)
  return math.min(mantissa == 0.5 and exponent - 1 or exponent, 23)
end

-- Turn to another job.
local function turn(to)
  id, job, events = to, prefix .. 'job:' .. to, prefix .. 'events:' .. to
end

-- What is to be published by a worker, and soon.
local function publish_later(at)
  redis.call('ZADD', prefix .. 'later', at, pack(id))
  redis.call('LPUSH', prefix .. 'wake', 1)
  redis.call('LTRIM', prefix .. 'wake', 0, 0)
end

-- The job's message is in its queue since then, or will be.
local function queue_name()
  local known = redis.call('HMGET', job, 'queue', 'priority')
  return known[1] .. ':' .. (known[2] or '')
end

local function enqueued(at)
  local name = queue_name()
  redis.call('ZADD', prefix .. 'queued:' .. name, at, pack(id))
  redis.call('HSETNX', prefix .. 'reached', name, 0)
end

-- It is not, any more. Where nothing is, nothing can be overtaken.
local function dequeued()
  local name = queue_name()
  redis.call('ZREM', prefix .. 'queued:' .. name, pack(id))
  if redis.call('EXISTS', prefix .. 'queued:' .. name) == 0 then redis.call('HDEL', prefix .. 'reached', name) end
end

-- Give back a limit's slot; the one that has waited for longest gets it.
local function release(limit)
  local slots, parked, me = prefix .. 'slots:' .. limit, prefix .. 'parked:' .. limit, id
  redis.call('SREM', slots, pack(id))
  redis.call('HDEL', job, 'slot')
  local first = redis.call('ZPOPMIN', parked)[1]
  if not first then return end
  turn(unpacked(first))
  redis.call('SADD', slots, first)
  redis.call('HSET', job, 'slot', limit)
  redis.call('HDEL', job, 'parked')
  publish_later(now())
  turn(me)
end

-- Nothing is to become of the job any more.
local function settle()
  local packed = pack(id)
  local known = redis.call('HMGET', job, 'slot', 'parked', 'unique')
  dequeued()
  for _, name in ipairs({'held', 'later', 'outbox'}) do redis.call('ZREM', prefix .. name, packed) end
  redis.call('DEL', prefix .. 'message:' .. id, prefix .. 'retry:' .. id)
  if known[2] then redis.call('ZREM', prefix .. 'parked:' .. known[2], packed) end
  if known[3] then redis.call('DEL', prefix .. 'unique:' .. known[3]) end
  if known[1] then release(known[1]) end
end

-- The attempt under way asks for another one, for this reason (JSON). It keeps the job's slot until its code has ended.
local function retried(from, why)
  local known, time = redis.call('HMGET', job, 'due', 'queue', 'task'), now()
  redis.call('HSET', job, 'state', 'RETRY')
  set_value(why)
  move(from, 'RETRY')
  redis.call('ZREM', prefix .. 'held', pack(id))
  redis.call('DEL', prefix .. 'retry:' .. id)
  enqueued(known[1] or time)
  count(time, known[2], known[3], 'r')
  event('state', '{"state":"RETRY","error":' .. why .. '}')
end

local function receiver_of(callback) return string.match(callback, ' (.*)') end

-- Have the job call a receiver back at some time, or not any more.
local function call_back(receiver, at)
  local queue = prefix .. 'callbacks:' .. receiver
  if at then redis.call('ZADD', queue, string.format('%.0f', at), id) else redis.call('ZREM', queue, id) end
  local first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')[2]
  if first then
    redis.call('ZADD', prefix .. 'callbacks', first, receiver)
  else
    redis.call('ZREM', prefix .. 'callbacks', receiver)
  end
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
  for _, each in ipairs(cjson.decode(known[2])) do redis.call('ZADD', prefix .. 'due', forgotten, pack(each)) end
  redis.call('ZADD', prefix .. 'due', forgotten, 'workflow:' .. name)
  redis.call('DEL', prefix .. 'message:' .. name)
  local its_events = prefix .. 'events:' .. name
  redis.call('RPUSH', its_events, 'end {}')
  redis.call('PUBLISH', its_events, '1 end {}')
  redis.call('PEXPIRE', its_events, math.min(known[1], 3600000))
end

-- Jobs of one owner that failed alike are a group. Of groups there are so many at the most, and none that is old.
local MAX_GROUPS = 500
local GROUP_TTL = 30 * 86400000  -- ms

local function drop_group(name)
  redis.call('ZREM', prefix .. 'failures', name)
  redis.call('DEL', prefix .. 'failure:' .. name, index('failure:' .. name))
end

local function note_failure(exception, detail, place)
  local known, time, groups = redis.call('HMGET', job, 'owner', 'task', 'created_at'), now(), prefix .. 'failures'
  local alike = table.concat({known[1], known[2], exception, place}, '\\n')
  local name = string.sub(redis.sha1hex(alike), 1, 16)
  local group = prefix .. 'failure:' .. name
  local is_new = redis.call('HINCRBY', group, 'count', 1) == 1
  if is_new then
    redis.call('HSET', group, 'owner', known[1], 'task', known[2], 'exception', exception, 'place', place)
    redis.call('HSET', group, 'first', time)
  end
  redis.call('HSET', group, 'last', time, 'detail', detail)
  redis.call('ZADD', groups, time, name)
  redis.call('ZADD', index('failure:' .. name), known[3], pack(id))
  redis.call('HSET', job, 'failure', name)
  if not is_new then return end
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', groups, '-inf', time - GROUP_TTL)) do drop_group(old) end
  if redis.call('ZCARD', groups) > MAX_GROUPS then drop_group(redis.call('ZRANGE', groups, 0, 0)[1]) end
end

-- A job that failed leaves its group when it is tried again, and is back if that was not published after all.
local function tried_again(failed, taken_back)
  local known = redis.call('HMGET', prefix .. 'job:' .. failed, 'failure', 'created_at')
  if not known[1] then return end
  if not taken_back then
    redis.call('ZREM', index('failure:' .. known[1]), pack(failed))
  elseif redis.call('EXISTS', prefix .. 'failure:' .. known[1]) == 1 then
    redis.call('ZADD', index('failure:' .. known[1]), known[2], pack(failed))
  end
end

-- A task's state for whoever waits by Celery's result backend, as that stores it itself: never over a success.
local function tell(key, value, seconds)
  if key == '' or redis.call('GETRANGE', key, 0, 19) == '{"status": "SUCCESS"' then return end
  if tonumber(seconds) > 0 then redis.call('SETEX', key, seconds, value) else redis.call('SET', key, value) end
  redis.call('PUBLISH', key, value)
end

local ENDS = {SUCCESS = 's', FAILURE = 'f', REVOKED = 'v'}
local NOT_NEEDED = '{"type":"TaskRevokedError","module":"celery.exceptions","message":"nothing failed"}'

local function finish_one(from, state, value)
  local known = redis.call('HMGET', job, 'ttl', 'owner', 'started_at', 'task', 'workflow', 'callback', 'queue')
  local time = now()
  local ran = known[3] and time - known[3]
  settle()
  redis.call('HSET', job, 'state', state, 'finished_at', time)
  redis.call('HDEL', job, 'token', 'due', 'ttl', 'retries', 'cancelled', 'parked', 'unique', 'not_before', 'lost',
    'delayed')
  set_value(value)
  move(from, state)
  local left = redis.call('HINCRBY', prefix .. 'open', known[2], -1)
  if left <= 0 then redis.call('HDEL', prefix .. 'open', known[2]) end
  if ran and state == 'SUCCESS' then pace(known[4] .. ' run', ran) end
  count(time, known[7], known[4], ENDS[state] .. (ran and bucket_of(ran) or ''))
  if ran then count(time, known[7], known[4], 'T', ran) end
  event('end', '{}')
  redis.call('PEXPIRE', events, math.min(known[1], 3600000))
  if known[6] then
    redis.call('HSET', job, 'delivery', 'waiting')
    call_back(receiver_of(known[6]), time)
  end
  if not known[5] then
    redis.call('ZADD', prefix .. 'due', time + known[1], pack(id))
    return
  end
  local workflow = prefix .. 'workflow:' .. known[5]
  local me, unfinished = id, redis.call('HINCRBY', workflow, 'open', -1)
  local on_error = redis.call('HGET', workflow, 'on_error')
  if on_error == me then redis.call('HDEL', workflow, 'on_error') end
  if unfinished <= 0 then
    finish_workflow(known[5])
  elseif unfinished == 1 and on_error and on_error ~= me then  -- all that could fail has succeeded
    turn(on_error)
    finish_one('PENDING', 'REVOKED', NOT_NEEDED)
    turn(me)
  end
end

-- What is to run when a job of a workflow does not succeed runs now, unless all of it is cancelled. In the place of the
-- mark in its message comes what happened.
local function call_for_help(state, value)
  local known, me = redis.call('HMGET', job, 'workflow', 'task'), id
  local workflow = known[1] and prefix .. 'workflow:' .. known[1]
  local on_error = workflow and redis.call('HGET', workflow, 'on_error')
  if not on_error or on_error == id or redis.call('HEXISTS', workflow, 'cancelled') == 1 then return end
  redis.call('HDEL', workflow, 'on_error')
  turn(on_error)
  local message, mark = redis.call('GET', prefix .. 'message:' .. id), '"error of ' .. known[1] .. '"'
  local from, to = string.find(message, mark, 1, true)
  local told = '{"job":' .. cjson.encode(me) .. ',"task":' .. cjson.encode(known[2]) .. ',"state":' ..
    cjson.encode(state) .. ',"error":' .. value .. '}'
  redis.call('SET', prefix .. 'message:' .. id, string.sub(message, 1, from - 1) .. told .. string.sub(message, to + 1))
  redis.call('HSET', job, 'due', now())
  publish_later(now())
  turn(me)
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

-- Of a FAILURE there is also what was raised, what it said and where, as text.
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

local CANCELLED = '{"type":"TaskRevokedError","module":"celery.exceptions","message":"cancelled"}'

-- End a job that has not begun, mark one that runs; return the state it was in. After *grace* ms, if that is not 0, its
-- worker ends the process of one that goes on all the same.
local function cancel(unless_begun, grace)
  local state = redis.call('HGET', job, 'state')
  if not state or ENDED[state] then return state end
  if bucket(state) ~= 'STARTED' then
    finish(state, 'REVOKED', CANCELLED)
  elseif not unless_begun then
    redis.call('HSET', job, 'cancelled', grace > 0 and now() + grace or 0)
  end
  return state
end

local GIVEN_UP = 'given up: ' .. MAX_LOST .. ' workers were lost while they ran it'
local DEAD = '{"type":"WorkerLostError","module":"billiard.exceptions","kind":"dead-lettered","message":"' ..
  GIVEN_UP .. '"}'

-- The worker that ran the job does not hold it any more: it waits again, or is given up.
local function lapse(state)
  redis.call('ZREM', prefix .. 'held', pack(id))
  local known = redis.call('HMGET', job, 'cancelled', 'queue', 'task')
  count(now(), known[2], known[3], 'l')
  if known[1] then return finish(state, 'REVOKED', CANCELLED) end
  if redis.call('HINCRBY', job, 'lost', 1) >= MAX_LOST then
    redis.call('ZADD', index('dead'), redis.call('HGET', job, 'created_at'), pack(id))
    return finish(state, 'FAILURE', DEAD, 'billiard.exceptions.WorkerLostError', GIVEN_UP, '')
  end
  local time = now()
  redis.call('HSET', job, 'state', 'PENDING')
  redis.call('HDEL', job, 'token', 'started_at', 'due')  -- which of two messages it begins by is not known
  set_value('null')
  move(state, 'PENDING')
  enqueued(time)
  event('state', cjson.encode({state = 'PENDING'}))
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

-- Write a job down, as it was asked for (JSON of its record's fields).
local function write(fields, input, ttl, delay, message, callback)
  local time, record, packed = now(), cjson.decode(fields), pack(id)
  for name, value in pairs(record) do redis.call('HSET', job, name, value) end
  redis.call('HSET', job, 'ttl', ttl, 'state', 'PENDING')
  if callback ~= '' then redis.call('HSET', job, 'callback', callback) end
  if delay then
    redis.call('HSET', job, 'due', time + delay)
    if tonumber(delay) > 0 then redis.call('HSET', job, 'delayed', 1) end
    enqueued(time + delay)
  end
  redis.call('SET', prefix .. 'input:' .. id, input)
  local blob = string.match(input, '^"(.*)"$')
  if blob then claim(blob) end
  if message ~= '' then redis.call('SET', prefix .. 'message:' .. id, message) end
  redis.call('HINCRBY', prefix .. 'open', record.owner, 1)
  count(time, record.queue, record.task, 'a')
  redis.call('DEL', prefix .. 'gone:' .. id)
  if record.retry_of then tried_again(record.retry_of) end
  local indexes = {'all', 'task:' .. record.task, 'state:PENDING'}
  if record.owner ~= '' then indexes[#indexes + 1] = 'owner:' .. record.owner end
  for _, tag in ipairs(cjson.decode(record.tags or '[]')) do indexes[#indexes + 1] = 'tag:' .. tag end
  for _, name in ipairs(indexes) do redis.call('ZADD', index(name), record.created_at, packed) end
end
"""

#: ARGV: prefix, id, record's fields (JSON), input, owner, ttl, delay, most unfinished ('' for any number), idempotency
#: key ('' for none), its fingerprint, its ttl, its lease, message, what it is unique by ('' for one that is not),
#: callback ('' for none).
#: Returns one of: accepted | taken-over | exists | full | other | in-flight | replay, response | unique, id
ACCEPT = (
    _COMMON
    + _WRITE
    + """
local held, hold = reserve(ARGV[9], ARGV[10], ARGV[11], ARGV[12])
if held then return held end
if redis.call('EXISTS', job) == 1 then return {'exists'} end
local unique = ARGV[14] ~= '' and prefix .. 'unique:' .. ARGV[14]
local same = unique and redis.call('GET', unique)
if same then
  if hold then hold() end
  return {'unique', same}
end
if is_full(ARGV[5], ARGV[8], 1) then return {'full'} end
write(ARGV[3], ARGV[4], ARGV[6], ARGV[7], ARGV[13], ARGV[15])
if unique then
  redis.call('SET', unique, id)
  redis.call('HSET', job, 'unique', ARGV[14])
end
if hold then hold() end
return {'accepted'}
"""
)

#: ARGV: prefix, workflow's id, record, owner, ttl, most unfinished ('' for any number), idempotency key ('' for none),
#: its fingerprint, its ttl, its lease, what comes after what (JSON: lists of ids, by name), message, id of the job
#: that runs on an error ('' for none), then of each job: id, record's fields (JSON), input, delay ('' for one that
#: others come before), before ('' for none), callback ('' for none), message ('' for one that is part of the whole's).
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
for place = 14, #ARGV, 7 do ids[#ids + 1] = ARGV[place] end
if is_full(owner, ARGV[6], #ids) then return {'full'} end
for place = 14, #ARGV, 7 do
  turn(ARGV[place])
  local delay, before = ARGV[place + 3], ARGV[place + 4]
  write(ARGV[place + 1], ARGV[place + 2], ttl, delay ~= '' and delay, ARGV[place + 6], ARGV[place + 5])
  if before ~= '' then redis.call('HSET', job, 'before', before) end
end
redis.call('HSET', workflow, 'record', ARGV[3], 'owner', owner, 'ttl', ttl, 'jobs', cjson.encode(ids), 'open', #ids)
for before, after in pairs(cjson.decode(ARGV[11])) do
  redis.call('HSET', workflow, 'after:' .. before, cjson.encode(after))
end
if ARGV[13] ~= '' then redis.call('HSET', workflow, 'on_error', ARGV[13]) end
redis.call('SET', prefix .. 'message:' .. name, ARGV[12])
redis.call('DEL', prefix .. 'gone:workflow:' .. name)
if hold then hold() end
return {'accepted'}
"""
)

_FORGET = """
local function forget()
  local known = redis.call('HMGET', job, 'owner', 'task', 'tags', 'state', 'callback', 'blobs', 'queue', 'failure',
    'retry_of')
  local packed = pack(id)
  if not known[4] then return end
  for name in string.gmatch(known[6] or '', '%S+') do redis.call('ZADD', prefix .. 'blobs', now(), name) end
  redis.call('ZREM', index('all'), packed)
  redis.call('ZREM', index('task:' .. known[2]), packed)
  redis.call('ZREM', index('state:' .. bucket(known[4])), packed)
  redis.call('ZREM', index('owner:' .. known[1]), packed)
  redis.call('ZREM', index('dead'), packed)
  if known[8] then redis.call('ZREM', index('failure:' .. known[8]), packed) end
  for _, tag in ipairs(cjson.decode(known[3] or '[]')) do redis.call('ZREM', index('tag:' .. tag), packed) end
  redis.call('DEL', job, events, prefix .. 'input:' .. id, prefix .. 'value:' .. id, prefix .. 'traceback:' .. id)
  if known[5] then
    call_back(receiver_of(known[5]))
    redis.call('DEL', prefix .. 'attempts:' .. id)
  end
  return known
end
"""

#: ARGV: prefix, id, idempotency key or ''. A job that was not published; one that a worker has seen stays.
WITHDRAW = (
    _COMMON
    + _FORGET
    + """
if redis.call('HGET', job, 'state') ~= 'PENDING' then return 0 end
settle()
local known = forget()
local owner = known[1]
count(now(), known[7], known[2], 'x')
if known[9] then tried_again(known[9], true) end
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
local name, workflow = id, prefix .. 'workflow:' .. id
local jobs = redis.call('HGET', workflow, 'jobs')
if not jobs then return 0 end
jobs = cjson.decode(jobs)
for _, each in ipairs(jobs) do
  if redis.call('HGET', prefix .. 'job:' .. each, 'state') ~= 'PENDING' then return 0 end
end
for _, each in ipairs(jobs) do
  turn(each)
  settle()
  local known = forget()
  local owner = known[1]
  count(now(), known[7], known[2], 'x')
  if redis.call('HINCRBY', prefix .. 'open', owner, -1) <= 0 then redis.call('HDEL', prefix .. 'open', owner) end
end
redis.call('DEL', workflow, prefix .. 'message:' .. name)
if ARGV[3] ~= '' then redis.call('DEL', prefix .. 'key:' .. ARGV[3]) end
return 1
"""
)

#: ARGV: prefix, id, running task's name, token, replaced ('1' | ''), worker, retries, limit ('' for none), how many
#: jobs at once ('' for any number), ms from one to the next ('' for none), what to tell Celery's result backend if it
#: runs (key or '', value, seconds or 0).
#: Returns go | unknown | duplicate | parked, or the state in which the job has ended.
#: A retry's message may come before its predecessor has told that it asks for one: the count of retries tells it from a
#: copy. Then the RETRY is told here, and the late word of it counts for nothing.
START = (
    _COMMON
    + """
local known = redis.call('HMGET', job, 'state', 'task', 'token', 'due', 'cancelled', 'retries', 'parked', 'delayed',
  'queue')
local state = known[1]
if not state then
  tell(ARGV[11], ARGV[12], ARGV[13])
  return 'unknown'
end
if ENDED[state] then return state end
if known[5] then
  finish(state, 'REVOKED', CANCELLED)
  return 'REVOKED'
end
if known[3] == ARGV[4] then return 'go' end
if known[2] ~= ARGV[3] then  -- what the job's task was replaced by
  redis.call('HSET', job, 'token', ARGV[4])
  tell(ARGV[11], ARGV[12], ARGV[13])
  return 'go'
end
if known[7] then return 'parked' end
local retries, time, packed = tonumber(ARGV[7]), now(), pack(id)
if ARGV[5] == '' and bucket(state) == 'STARTED' and retries > tonumber(known[6] or 0) then
  retried(state, redis.call('GET', prefix .. 'retry:' .. id) or 'null')
  state = 'RETRY'
elseif ARGV[5] == '' and bucket(state) == 'STARTED' then
  if time < tonumber(redis.call('ZSCORE', prefix .. 'held', packed) or 0) then return 'duplicate' end
  lapse(state)
  state = redis.call('HGET', job, 'state')
  if ENDED[state] then return state end
end

local limit, most, interval = ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])
if interval then
  local mine = redis.call('HGET', job, 'not_before')
  if mine then
    if time < tonumber(mine) then return 'parked' end
  else
    local at = math.max(time, tonumber(redis.call('GET', prefix .. 'next:' .. limit) or 0))
    redis.call('SET', prefix .. 'next:' .. limit, at + interval, 'PX', math.ceil(at - time + interval) + 1)
    redis.call('HSET', job, 'not_before', at)
    if at > time then
      dequeued()
      publish_later(at)
      return 'parked'
    end
  end
end
if most then
  local slots = prefix .. 'slots:' .. limit
  if redis.call('SISMEMBER', slots, packed) == 0 then
    if redis.call('SCARD', slots) >= most then
      dequeued()
      redis.call('ZADD', prefix .. 'parked:' .. limit, known[4] or time, packed)
      redis.call('HSET', job, 'parked', limit)
      return 'parked'
    end
    redis.call('SADD', slots, packed)
    redis.call('HSET', job, 'slot', limit)
  end
end

local attempt, queue = redis.call('HINCRBY', job, 'attempt', 1), queue_name()
dequeued()
redis.call('HSET', job, 'state', 'STARTED', 'started_at', time, 'token', ARGV[4], 'worker', ARGV[6], 'retries', retries)
redis.call('HDEL', job, 'not_before', 'delayed')
redis.call('ZADD', prefix .. 'held', time + LEASE, packed)
set_value('null')
move(state, 'STARTED')
local waited = known[4] and math.max(0, time - known[4])
count(time, known[9], known[2], 'w' .. (waited and bucket_of(waited) or ''))
if waited then
  count(time, known[9], known[2], 'W', waited)
  if attempt == 1 then pace(known[2] .. ' wait', waited) end
  -- A worker holds what is delayed, and begins it before others that came earlier: that overtakes nobody.
  local reached = known[8] and math.huge or tonumber(redis.call('HGET', prefix .. 'reached', queue) or math.huge)
  if tonumber(known[4]) > reached then redis.call('HSET', prefix .. 'reached', queue, known[4]) end
end
event('state', cjson.encode({state = 'STARTED', attempt = attempt, started_at = time}))
tell(ARGV[11], ARGV[12], ARGV[13])
return 'go'
"""
)

#: ARGV: prefix, id, kind of event (state | progress | log), its data, state ('' leaves it, and the value), its value,
#: the retries of an attempt that ends with this ('' for one that goes on).
#: Returns go | unknown | cancelled, or the state in which the job has ended.
REPORT = (
    _COMMON
    + """
local known = redis.call('HMGET', job, 'state', 'cancelled', 'retries', 'slot')
if not known[1] then return 'unknown' end
if ENDED[known[1]] then return known[1] end
if ARGV[7] ~= '' and known[3] ~= ARGV[7] then return 'go' end
local is_under_way = bucket(known[1]) == 'STARTED'
if ARGV[5] == 'RETRY' then
  if is_under_way then retried(known[1], ARGV[6]) end  -- else START has told it already, or it was given up for lost
  if known[4] then release(known[4]) end
  return known[2] and 'cancelled' or 'go'
end
if ARGV[5] ~= '' then
  if not is_under_way then return 'go' end  -- of an attempt that was given up for lost
  move(known[1], ARGV[5])
  redis.call('HSET', job, 'state', ARGV[5])
  set_value(ARGV[6])
end
event(ARGV[3], ARGV[4])
return known[2] and 'cancelled' or 'go'
"""
)

#: ARGV: prefix, id, state, the result's or the error's JSON, 'stored' for a result that is a blob (and is named here),
#: token ('' where the worker says it, not the attempt), packed traceback or '', traceparent or '', what to tell
#: Celery's result backend (key or '', value, seconds or 0), and of a FAILURE what was raised, what it said and where,
#: as text. Returns whether this was the job's end.
#: An attempt that was given up for lost may have succeeded after all; if it failed, that is the next one's to do.
FINISH = (
    _COMMON
    + """
tell(ARGV[9], ARGV[10], ARGV[11])
local known = redis.call('HMGET', job, 'state', 'token')
local from = known[1]
if not from or ENDED[from] then return 0 end
if ARGV[3] ~= 'SUCCESS' and ARGV[6] ~= '' and ARGV[6] ~= known[2] then return 0 end
finish(from, ARGV[3], ARGV[4], ARGV[12], ARGV[13], ARGV[14])
if ARGV[5] == 'stored' then
  redis.call('HSET', job, 'stored', 1)
  claim(cjson.decode(ARGV[4])[1])
end
if ARGV[7] ~= '' then redis.call('SET', prefix .. 'traceback:' .. id, ARGV[7]) end
if ARGV[8] ~= '' and redis.call('HEXISTS', job, 'callback') == 1 then
  redis.call('HSET', job, 'traceparent', ARGV[8])
end
return 1
"""
)

#: ARGV: prefix, id, whether to leave a running job alone ('1' | ''), ms after which its process is ended (0 for never).
#: A job that has not begun ends here; one that runs is marked. Returns the state it was in, or nothing for no job.
CANCEL = (
    _COMMON
    + """
return cancel(ARGV[3] ~= '', tonumber(ARGV[4]))
"""
)

#: ARGV: prefix, workflow's id, whether it is all of the workflow ('1' | ''), as CANCEL's last, ids of jobs…
CANCEL_WORKFLOW = (
    _COMMON
    + """
local workflow = prefix .. 'workflow:' .. id
if tonumber(redis.call('HGET', workflow, 'open') or 0) <= 0 then return end
if ARGV[3] ~= '' then redis.call('HSET', workflow, 'cancelled', 1) end
-- From the last to the first, so that each is said to be cancelled, and not to have waited for one that was.
for place = #ARGV, 5, -1 do
  turn(ARGV[place])
  cancel(false, tonumber(ARGV[4]))
end
"""
)

#: ARGV: prefix, id, message, due ('' for now), of a retry its error (JSON; else '').
#: What a worker is about to publish, if it is a job's.
KEEP = (
    _COMMON
    + """
local state = redis.call('HGET', job, 'state')
if not state or ENDED[state] then return 0 end
local due = tonumber(ARGV[4]) or now()
redis.call('SET', prefix .. 'message:' .. id, ARGV[3])
if ARGV[5] ~= '' then redis.call('SET', prefix .. 'retry:' .. id, ARGV[5]) end
redis.call('HSET', job, 'due', due)
if ARGV[4] ~= '' then redis.call('HSET', job, 'delayed', 1) else redis.call('HDEL', job, 'delayed') end
if bucket(state) ~= 'STARTED' then enqueued(due) end
return 1
"""
)

#: ARGV: prefix, id, how many there may be, place from the front (optional). A job that could not be published.
#: Returns whether it will be.
DEFER = (
    _COMMON
    + """
if redis.call('HGET', job, 'state') ~= 'PENDING' then return 1 end
if redis.call('ZCARD', prefix .. 'outbox') >= tonumber(ARGV[3]) then return 0 end
local time = redis.call('TIME')
dequeued()
redis.call('ZADD', prefix .. 'outbox', ARGV[4] or time[1] * 1000000 + time[2], pack(id))
redis.call('LPUSH', prefix .. 'wake', 1)
redis.call('LTRIM', prefix .. 'wake', 0, 0)
return 1
"""
)

_MESSAGES = """
-- A job's message, or that of the workflow that it is part of, comes after its id.
local function add_message(found)
  local message = redis.call('GET', prefix .. 'message:' .. id)
  if not message then
    local workflow = redis.call('HGET', job, 'workflow')
    message = workflow and redis.call('GET', prefix .. 'message:' .. workflow)
  end
  if message then
    found[#found + 1] = id
    found[#found + 1] = message
  end
end
"""

#: ARGV: prefix, '', how many at most, who asks. Take what is to be published now; the outbox only as leader, for order.
#: Returns ms until there is more ('' for never), then id and message of each, in order.
TAKE = (
    _COMMON
    + _MESSAGES
    + """
local time, most, found = now(), tonumber(ARGV[3]), {''}
local due = {}
if redis.call('GET', prefix .. 'leader') == ARGV[4] then due = redis.call('ZRANGE', prefix .. 'outbox', 0, most - 1) end
for _, each in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'later', '-inf', time, 'LIMIT', 0, most)) do
  due[#due + 1] = each
end
for _, each in ipairs(due) do
  turn(unpacked(each))
  redis.call('ZREM', prefix .. 'outbox', each)
  redis.call('ZREM', prefix .. 'later', each)
  local state = redis.call('HGET', job, 'state')
  if state and not ENDED[state] then
    enqueued(time)
    add_message(found)
  end
end
local next = redis.call('ZRANGE', prefix .. 'later', 0, 0, 'WITHSCORES')
if #due >= most then found[1] = 0 elseif next[2] then found[1] = math.max(0, math.ceil(next[2] - time)) end
return found
"""
)

#: ARGV: prefix, '', worker, what is to be known about it (JSON; '' once it ends), how many jobs it runs, ids of these…,
#: ids of those that it ran and does not any more…
#: Returns the ids of those that were cancelled and have not ended in time.
LEASE = (
    _COMMON
    + """
local time, late, mine = now(), {}, {}
for place = 6, #ARGV do
  turn(ARGV[place])
  local known, held = redis.call('HMGET', job, 'worker', 'cancelled'), prefix .. 'held'
  if known[1] == ARGV[3] then
    if place - 5 <= tonumber(ARGV[5]) then
      redis.call('ZADD', held, 'XX', time + LEASE, pack(id))
      mine[#mine + 1] = id
      local deadline = tonumber(known[2] or 0)
      if deadline > 0 and deadline <= time then late[#late + 1] = id end
    else
      redis.call('ZADD', held, 'XX', time, pack(id))
    end
  end
end
local name, worker = ARGV[3], prefix .. 'worker:' .. ARGV[3]
if ARGV[4] == '' then
  redis.call('DEL', worker)
  redis.call('ZREM', prefix .. 'workers', name)
else
  redis.call('HSET', worker, 'about', ARGV[4], 'jobs', table.concat(mine, ','))
  redis.call('PEXPIRE', worker, 3600000)
  redis.call('ZADD', prefix .. 'workers', time, name)
  redis.call('ZREMRANGEBYSCORE', prefix .. 'workers', '-inf', time - 3600000)
end
return late
"""
)

#: ARGV: prefix, '', who asks, ms for which it then leads, how many at most, names of queues that are known to be empty…
#: Looks for jobs whose worker or message was lost: those whose lease is over, and those that wait for longer than
#: GRACE in a queue that is empty, or in which others were begun that came after them by more than that.
#: Returns what is to be published: id and message of each; then '', and the names of queues that may be empty.
RECONCILE = (
    _COMMON
    + _MESSAGES
    + """
local leader, time, most, found = redis.call('GET', prefix .. 'leader'), now(), tonumber(ARGV[5]), {}
if leader and leader ~= ARGV[3] then
  if redis.call('PTTL', prefix .. 'leader') > tonumber(ARGV[4]) then  -- the server's clock was set back
    redis.call('PEXPIRE', prefix .. 'leader', ARGV[4])
  end
  return {}
end
redis.call('SET', prefix .. 'leader', ARGV[3], 'PX', ARGV[4])

local function publish_again()
  local known = redis.call('HMGET', job, 'queue', 'task')
  count(time, known[1], known[2], 'p')
  add_message(found)
end

for _, each in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'held', '-inf', time, 'LIMIT', 0, most)) do
  turn(unpacked(each))
  local state = redis.call('HGET', job, 'state')
  if state and bucket(state) == 'STARTED' then
    lapse(state)
    if not ENDED[redis.call('HGET', job, 'state')] then publish_again() end
  else
    redis.call('ZREM', prefix .. 'held', each)
  end
end

local empty, suspects = {}, {}
for place = 6, #ARGV do empty[ARGV[place]] = true end
local reached = redis.call('HGETALL', prefix .. 'reached')
for place = 1, #reached, 2 do
  local name, queued = reached[place], prefix .. 'queued:' .. reached[place]
  local queue = string.match(name, '^(.*):[^:]*$')
  local until_then = (empty[queue] and time or tonumber(reached[place + 1])) - GRACE
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', queued, '-inf', until_then, 'LIMIT', 0, most)) do
    turn(unpacked(each))
    local state = redis.call('HGET', job, 'state')
    if state and not ENDED[state] and bucket(state) ~= 'STARTED' then
      redis.call('ZADD', queued, time, each)
      publish_again()
    else
      dequeued()
    end
  end
  local first = redis.call('ZRANGE', queued, 0, 0, 'WITHSCORES')
  if first[1] and not empty[queue] and tonumber(first[2]) < time - GRACE then
    suspects[#suspects + 1] = queue
  end
end
found[#found + 1] = ''
for _, queue in ipairs(suspects) do found[#found + 1] = queue end
return found
"""
)

_READ = """
-- A job's fields, as asked for, and its value; or nothing.
local function read(fields)
  local values = redis.call('HMGET', job, unpack(fields))
  if not values[1] then return end
  values[#values + 1] = redis.call('GET', prefix .. 'value:' .. id)
  return values
end
"""

#: ARGV: prefix, id, fields…, of which the first is one that each job has.
#: Returns the fields, the value, of a job that is PENDING how many are in its queue, and of one that failed its
#: traceback; {owner} of one that was forgotten; {} if there was none.
READ = (
    _COMMON
    + _READ
    + """
local values = read({unpack(ARGV, 3)})
if not values then return {redis.call('GET', prefix .. 'gone:' .. id) or nil} end
local known, depth, traceback = redis.call('HMGET', job, 'state', 'queue'), false, false
if known[1] == 'PENDING' then
  local queued = prefix .. 'queued:' .. known[2] .. ':'
  depth = redis.call('ZCARD', queued)
  for priority = 0, 9 do depth = depth + redis.call('ZCARD', queued .. priority) end
end
if known[1] == 'FAILURE' then traceback = redis.call('GET', prefix .. 'traceback:' .. id) end
values[#values + 1] = depth
values[#values + 1] = traceback
return values
"""
)

#: ARGV: prefix, workflow's id, fields…
#: Returns {owner} of one that was forgotten; {} if there was none; or {record, cancelled or '', {id, fields…, value} of
#: each job…}.
READ_WORKFLOW = (
    _COMMON
    + _READ
    + """
local name = id
local known = redis.call('HMGET', prefix .. 'workflow:' .. name, 'record', 'cancelled', 'jobs')
if not known[1] then return {redis.call('GET', prefix .. 'gone:workflow:' .. id) or nil} end
local found = {known[1], known[2] or ''}
for _, each in ipairs(cjson.decode(known[3])) do
  turn(each)
  local values = read({unpack(ARGV, 3)})
  if not values then return {redis.call('HGET', prefix .. 'workflow:' .. name, 'owner')} end  -- it is being forgotten
  table.insert(values, 1, each)
  found[#found + 1] = values
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
    turn(unpacked(each))
    local known = forget()
    owner = known and known[1]
  end
  if owner then redis.call('SET', prefix .. 'gone:' .. unpacked(each), owner, 'PX', ARGV[3]) end
  redis.call('ZREM', prefix .. 'due', each)
end
return #due
"""
)

#: ARGV: prefix, '', most jobs, most looked at, newest score or '+inf', id to come after at that score or '', oldest
#: score, fields (comma-separated), then the names of the indexes that a job must be in.
#: Returns {next score, next id} or {} at the end, then {id, fields…, value} of each job, newest first.
LIST = (
    _COMMON
    + _READ
    + """
local most, looks, newest, after, oldest = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], pack(ARGV[6]), ARGV[7]
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
        turn(unpacked(each))
        local values = read(fields)
        if values then
          table.insert(values, 1, id)
          found[#found + 1] = values
        end
      end
      if #found > most or looked >= looks then
        found[1] = {score, unpacked(each)}
        return found
      end
    end
  end
  skip = skip + 100
end
return found
"""
)

#: ARGV: prefix, '', how many at most, how many of one receiver's, lease, how many receivers are looked at, then
#: receivers and how many of theirs are under way already: who has the fewest comes first.
#: Returns {job's id, callback, tries, when the lease ends} of each.
CLAIM_CALLBACKS = (
    _COMMON
    + """
local most, share, time = tonumber(ARGV[3]), tonumber(ARGV[4]), now()
local lease = time + ARGV[5]
local under_way, found = {}, {}
for place = 7, #ARGV, 2 do under_way[ARGV[place]] = tonumber(ARGV[place + 1]) end
local receivers = redis.call('ZRANGEBYSCORE', prefix .. 'callbacks', '-inf', time, 'LIMIT', 0, ARGV[6])
table.sort(receivers, function(one, other) return (under_way[one] or 0) < (under_way[other] or 0) end)
for _, receiver in ipairs(receivers) do
  local room = math.max(0, math.min(share - (under_way[receiver] or 0), most - #found))
  local due = redis.call('ZRANGEBYSCORE', prefix .. 'callbacks:' .. receiver, '-inf', time, 'LIMIT', 0, room)
  for _, each in ipairs(due) do
    turn(each)
    local known = redis.call('HMGET', job, 'callback', 'tries')
    if known[1] then
      call_back(receiver, lease)
      found[#found + 1] = {each, known[1], known[2] or '0', string.format('%.0f', lease)}
    else -- somebody has deleted the job by hand
      call_back(receiver)
    end
  end
end
return found
"""
)

#: ARGV: prefix, id, when the lease ends, the attempt's JSON, how many of these are kept, delivery's state, until the
#: next try ('' for none). Of a claim whose lease is over, which somebody else has, nothing but the attempt is noted.
SETTLE = (
    _COMMON
    + """
local callback = redis.call('HGET', job, 'callback')
if not callback then return end
local receiver = receiver_of(callback)
redis.call('RPUSH', prefix .. 'attempts:' .. id, ARGV[4])
redis.call('LTRIM', prefix .. 'attempts:' .. id, -ARGV[5], -1)
if redis.call('ZSCORE', prefix .. 'callbacks:' .. receiver, id) ~= ARGV[3] then return end
redis.call('HSET', job, 'delivery', ARGV[6])
if ARGV[7] == '' then
  call_back(receiver)
else
  redis.call('HINCRBY', job, 'tries', 1)
  call_back(receiver, now() + ARGV[7])
end
"""
)

#: ARGV: prefix, id. Returns {} if there is none; or {callback, delivery's state, when to try next or '', attempts…}.
DELIVERY = (
    _COMMON
    + """
local known = redis.call('HMGET', job, 'callback', 'delivery')
if not known[2] then return {} end
local found = redis.call('LRANGE', prefix .. 'attempts:' .. id, 0, -1)
table.insert(found, 1, redis.call('ZSCORE', prefix .. 'callbacks:' .. receiver_of(known[1]), id) or '')
table.insert(found, 1, known[2])
table.insert(found, 1, known[1])
return found
"""
)

#: ARGV: prefix, id. Has a job call back again, now, as if it had just ended.
REPLAY = (
    _COMMON
    + """
local known = redis.call('HMGET', job, 'callback', 'delivery')
if not known[2] then return end
redis.call('HSET', job, 'delivery', 'waiting')
redis.call('HDEL', job, 'tries')
call_back(receiver_of(known[1]), now())
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

#: ARGV: prefix, '', queue or '', task or '', names of slots (``minute:…``, ``hour:…``, ``day:…``, ``all``)…
#: Returns the minute that is open, or nothing; its fields and counts; then for each slot series and JSON, of all the
#: series that fit, or without queue and task of all together.
HISTORY = (
    _COMMON
    + """
local queue, task, open = ARGV[3], ARGV[4], prefix .. 'history:open'
local found = {redis.call('HGET', open, 'minute'), redis.call('HGETALL', open)}
for place = 5, #ARGV do
  local slot, series = prefix .. 'history:' .. ARGV[place], {}
  if ARGV[place] == 'all' then
    series = redis.call('HGETALL', slot)
  elseif queue == '' and task == '' then
    series = {'', redis.call('HGET', slot, '')}
  elseif queue ~= '' and task ~= '' then
    series = {queue .. '\\n' .. task, redis.call('HGET', slot, queue .. '\\n' .. task)}
  else
    for _, each in ipairs(redis.call('HKEYS', slot)) do
      if (queue ~= '' and string.sub(each, 1, #queue + 1) == queue .. '\\n')
        or (task ~= '' and string.sub(each, -#task - 1) == '\\n' .. task) then
        series[#series + 1] = each
        series[#series + 1] = redis.call('HGET', slot, each)
      end
    end
  end
  found[#found + 1] = series
end
return found
"""
)

#: ARGV: prefix, '', queue. No worker is to take from it, from now on or since it was paused before.
PAUSE = (
    _COMMON
    + """
redis.call('HSETNX', prefix .. 'paused', ARGV[3], now())
"""
)

#: ARGV: prefix, '', queue, state (PENDING | RETRY), cursor ('0' to begin), error (JSON), until when (ms since 1970).
#: Ends jobs in this state that were accepted by then, whose message is in the queue or yet to be published into it; one
#: that comes after others has none. Returns where to go on ('0' at the end), and the ids of those that it has ended.
PURGE = (
    _COMMON
    + """
local queue, state, until_then = ARGV[3], ARGV[4], tonumber(ARGV[7])
local page = redis.call('ZSCAN', index('state:' .. state), ARGV[5], 'COUNT', 200)
local found = {page[1]}
for place = 1, #page[2], 2 do
  local packed = page[2][place]
  turn(unpacked(packed))
  local known = redis.call('HMGET', job, 'state', 'queue', 'parked', 'created_at')
  if known[1] == state and known[2] == queue and tonumber(known[4]) <= until_then then
    local waits = known[3]
    for _, name in ipairs({'queued:' .. queue_name(), 'later', 'outbox'}) do
      waits = waits or redis.call('ZSCORE', prefix .. name, packed)
    end
    if waits then
      finish(state, 'REVOKED', ARGV[6])
      found[#found + 1] = id
    end
  end
end
return found
"""
)

#: ARGV: prefix, ''. Returns {queue:priority, how many are due, how many are not yet, for how many ms the first one has
#: been} of each queue and priority that has any.
QUEUES = (
    _COMMON
    + """
local time, found = now(), {}
for _, name in ipairs(redis.call('HKEYS', prefix .. 'reached')) do
  local queued = prefix .. 'queued:' .. name
  local all, due = redis.call('ZCARD', queued), redis.call('ZCOUNT', queued, '-inf', time)
  local first = redis.call('ZRANGE', queued, 0, 0, 'WITHSCORES')[2]
  found[#found + 1] = {name, due, all - due, first and math.max(0, time - first) or 0}
end
return found
"""
)

#: ARGV: prefix, ''. Returns {name, for how many ms it was not heard of, about (JSON), jobs' ids} of each worker.
WORKERS = (
    _COMMON
    + """
local time, found = now(), {}
local seen = redis.call('ZRANGE', prefix .. 'workers', 0, -1, 'WITHSCORES')
for place = 1, #seen, 2 do
  local known = redis.call('HMGET', prefix .. 'worker:' .. seen[place], 'about', 'jobs')
  if known[1] then found[#found + 1] = {seen[place], time - seen[place + 1], known[1], known[2]} end
end
return found
"""
)

#: ARGV: prefix, '', whether only an owner's ('1' | ''), the owner.
#: Returns {id, owner, task, exception, place, detail, first, last, count, how many have not been tried again} of each
#: group of failed jobs, the one that failed last first.
FAILURES = (
    _COMMON
    + """
local found = {}
for _, name in ipairs(redis.call('ZREVRANGEBYSCORE', prefix .. 'failures', '+inf', now() - GROUP_TTL)) do
  local known = redis.call('HMGET', prefix .. 'failure:' .. name, 'owner', 'task', 'exception', 'place', 'detail',
    'first', 'last', 'count')
  if known[1] and (ARGV[3] == '' or known[1] == ARGV[4]) then
    table.insert(known, 1, name)
    known[#known + 1] = redis.call('ZCARD', index('failure:' .. name))
    found[#found + 1] = known
  end
end
return found
"""
)

#: ARGV: prefix, group's id. Nothing is left of it, until a job fails so again.
RESOLVE = (
    _COMMON
    + """
drop_group(id)
"""
)
