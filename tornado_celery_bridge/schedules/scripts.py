"""
What is done to the schedules in one step, as Lua scripts; they write jobs as the ledger's scripts do.

Keys beside the ledger's, with its prefix:

==========================  ========================================================================================
``schedule:{name}``         hash: the ``entry`` (JSON, as it was asked for), its ``version``, and what it has come to:
                            ``slot`` (the run that it is due for), ``runs``, ``last`` (the last run's job), ``failures``
                            (in a row), ``counted`` (the last run that these know of), ``held`` (that it waits for its
                            last run), ``halted`` (why it is due no more), ``static`` (that the configuration has it),
                            ``quarantined`` (why nobody can use it), ``last_at`` (when the last run began), ``owner``
``schedules``               sorted set of their names, in order
``schedules:owner:{…}``     sorted set of an owner's
``schedules:due``           sorted set of names, by when they are due
``schedules:runs:{name}``   list of what became of the last runs that were due, as JSON, the latest first
``schedules:static``        set of the names that the configuration has; ``-`` says that it was loaded
``schedules:quarantined``   set of the names that nobody can use
``schedules:leader``        the beat that leads: ``{fence} {who}``, for as long as its lease
``schedules:fence``         counts the leaders: no two have the same number
``schedules:wake``          list: has an element when an entry was changed
``schedules:statistics``    hash of counters: ``runs``; ``missed``, ``skipped`` and ``paused`` (how often runs were left
                            out for that); ``late`` (ms, the sum over runs) and ``late:{bound}`` (runs that were at most
                            so many ms late, and more than the bound before; ``late:`` is those over all bounds)
==========================  ========================================================================================

Theory of operation. DUE says what is due and changes nothing; what is to be done is worked out by who asked; RUN does
it in one step: the runs are accepted as jobs, and the entry is due for the next. RUN is refused to who is not the
leader any more (the lease has another number) and to who worked it out from what is not so any more (the entry has
another version, or is due for another run). So whoever dies, and wherever, each run is accepted once or is still due;
and the message of an accepted job is published by whoever comes first: its beat, or a worker that finds it lost.

All times are the server's, in milliseconds since 1970.
"""

from tornado_celery_bridge.ledger.scripts import _COMMON, _WRITE

__all__ = (
    "BACKFILL",
    "DELETE",
    "DUE",
    "HALT",
    "LEAD",
    "LOAD",
    "PUT",
    "QUARANTINE",
    "READ",
    "RUN",
    "RUN_NOW",
    "STATISTICS",
    "STEP_DOWN",
)

#: Milliseconds: runs are counted by how late they were at most. That is a few ordinarily, and 6,000 in a fail-over.
LATE = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 3_600_000)

_SCHEDULES = (
    _COMMON
    + f"local BOUNDS = {{{', '.join(map(str, LATE))}}}"
    + """
local schedules = prefix .. 'schedules'
local function key_of(name) return prefix .. 'schedule:' .. name end

local function wake()
  redis.call('LPUSH', schedules .. ':wake', 1)
  redis.call('LTRIM', schedules .. ':wake', 0, 0)
end

-- Whatever is in the place of one: somebody's own key, perhaps.
local function known_of(name, ...)
  local known = redis.pcall('HMGET', key_of(name), ...)
  return not known.err and known
end

local function be_due(name, slot, due)
  if slot == '' then
    redis.call('HDEL', key_of(name), 'slot')
    redis.call('ZREM', schedules .. ':due', name)
  else
    redis.call('HSET', key_of(name), 'slot', slot)
    redis.call('ZADD', schedules .. ':due', due, name)
  end
end

-- Who may see nothing but their own need not look at everybody's. '' is nobody.
local function belong(name, owner)
  local known = known_of(name, 'owner')
  if known and known[1] then
    redis.call('ZREM', schedules .. ':owner:' .. known[1], name)
    redis.call('HDEL', key_of(name), 'owner')
  end
  if owner ~= '' then
    redis.call('HSET', key_of(name), 'owner', owner)
    redis.call('ZADD', schedules .. ':owner:' .. owner, 0, name)
  end
end

local function put(name, entry, slot, due)
  if not known_of(name, 'version') then redis.call('DEL', key_of(name)) end
  local version = redis.call('HINCRBY', key_of(name), 'version', 1)
  redis.call('HSET', key_of(name), 'entry', entry)
  redis.call('HDEL', key_of(name), 'halted', 'failures', 'held', 'quarantined')
  redis.call('SREM', schedules .. ':quarantined', name)
  redis.call('ZADD', schedules, 0, name)
  belong(name, cjson.decode(entry).owner or '')
  be_due(name, slot, due)
  return version
end

local function delete(name)
  belong(name, '')
  redis.call('DEL', key_of(name), schedules .. ':runs:' .. name)
  redis.call('ZREM', schedules, name)
  redis.call('ZREM', schedules .. ':due', name)
  redis.call('SREM', schedules .. ':static', name)
  redis.call('SREM', schedules .. ':quarantined', name)
end

local function tally(what, by) redis.call('HINCRBY', schedules .. ':statistics', what, by or 1) end

local function count_late(ms)
  local bound = ''
  for _, each in ipairs(BOUNDS) do
    if ms <= each then
      bound = each
      break
    end
  end
  tally('late:' .. bound)
  tally('late', string.format('%.0f', math.max(0, ms)))
end

local function note(name, what, most)
  redis.call('LPUSH', schedules .. ':runs:' .. name, what)
  redis.call('LTRIM', schedules .. ':runs:' .. name, 0, most - 1)
end
"""
)

#: ARGV: prefix, name, the version that it has to have ('' for any, 0 for none yet), entry, slot ('' for never), due,
#: whether a static one may be changed ('1' | ''). Returns the new version; -1 for another version, -2 for a static one.
PUT = (
    _SCHEDULES
    + """
local known = known_of(id, 'version') or {}
if ARGV[3] ~= '' and ARGV[3] ~= (known[1] or '0') then return -1 end
if ARGV[7] == '' and redis.call('SISMEMBER', schedules .. ':static', id) == 1 then return -2 end
wake()
return put(id, ARGV[4], ARGV[5], ARGV[6])
"""
)

#: ARGV: prefix, name, the version that it has to have ('' for any). Returns 1; 0 for none, and as PUT does.
DELETE = (
    _SCHEDULES
    + """
if redis.call('EXISTS', key_of(id)) == 0 then return 0 end
local known = known_of(id, 'version') or {}
if ARGV[3] ~= '' and ARGV[3] ~= (known[1] or '0') then return -1 end
if redis.call('SISMEMBER', schedules .. ':static', id) == 1 then return -2 end
delete(id)
return 1
"""
)

#: ARGV: prefix, '', then of each entry that the configuration has and that is to be put: name, entry, slot, due; then
#: '', and the names of those that stay as they are. All other static ones go.
LOAD = (
    _SCHEDULES
    + """
local place, keep = 3, {['-'] = true}
redis.call('SADD', schedules .. ':static', '-')
while ARGV[place] ~= '' do
  local name = ARGV[place]
  put(name, ARGV[place + 1], ARGV[place + 2], ARGV[place + 3])
  redis.call('SADD', schedules .. ':static', name)
  keep[name] = true
  place = place + 4
end
for each = place + 1, #ARGV do keep[ARGV[each]] = true end
for _, name in ipairs(redis.call('SMEMBERS', schedules .. ':static')) do
  if not keep[name] then delete(name) end
end
wake()
"""
)

#: ARGV: prefix, '', names… Returns {entry, version, slot, runs, failures, last, halted, quarantined, static, last_at},
#: or {}, of each; an empty string is in the place of what it has not.
READ = (
    _SCHEDULES
    + """
local found = {}
for place = 3, #ARGV do
  local name, one = ARGV[place], {}
  local fields = {'entry', 'version', 'slot', 'runs', 'failures', 'last', 'halted', 'quarantined', 'last_at'}
  local known = known_of(name, unpack(fields)) or {}
  if redis.call('EXISTS', key_of(name)) == 1 then
    for field = 1, 8 do one[field] = known[field] or '' end
    one[10] = known[9] or ''
    one[9] = redis.call('SISMEMBER', schedules .. ':static', name)
  end
  found[#found + 1] = one
end
return found
"""
)

#: ARGV: prefix, '', who asks, lease, the fence that it has ('' for none). Returns the fence under which it leads, or 0.
LEAD = (
    _SCHEDULES
    + """
local leader = redis.call('GET', schedules .. ':leader')
if leader and leader == ARGV[5] .. ' ' .. ARGV[3] then
  redis.call('PEXPIRE', schedules .. ':leader', ARGV[4])
  return tonumber(ARGV[5])
end
if leader then
  -- Of a server whose clock was set back: its lease would last for longer by that.
  if redis.call('PTTL', schedules .. ':leader') > tonumber(ARGV[4]) then
    redis.call('PEXPIRE', schedules .. ':leader', ARGV[4])
  end
  return 0
end
local fence = redis.call('INCR', schedules .. ':fence')
redis.call('SET', schedules .. ':leader', fence .. ' ' .. ARGV[3], 'PX', ARGV[4])
return fence
"""
)

#: ARGV: prefix, '', leader as it is written. Returns whether it was.
STEP_DOWN = (
    _SCHEDULES
    + """
if redis.call('GET', schedules .. ':leader') ~= ARGV[3] then return 0 end
return redis.call('DEL', schedules .. ':leader')
"""
)

#: ARGV: prefix, '', leader as it is written, how many at most.
#: Returns nothing to who does not lead; or {now, ms until there is more ('' for never), whether the configuration was
#: loaded, then {name, entry, version, slot, runs, failures, last, counted, held, state of the last run's job} of each,
#: {name} of one that is none}.
DUE = (
    _SCHEDULES
    + """
if redis.call('GET', schedules .. ':leader') ~= ARGV[3] then return end
local time, most = now(), tonumber(ARGV[4])
local names = redis.call('ZRANGEBYSCORE', schedules .. ':due', '-inf', time, 'LIMIT', 0, most)
local found = {time, '', redis.call('EXISTS', schedules .. ':static')}
for _, name in ipairs(names) do
  local one = {name}
  local known = known_of(name, 'entry', 'version', 'slot', 'runs', 'failures', 'last', 'counted', 'held')
  if known then
    for field = 1, 8 do one[field + 1] = known[field] or '' end
    local state = redis.pcall('HGET', prefix .. 'job:' .. (known[6] or ''), 'state')
    one[10] = type(state) == 'string' and state or ''
  end
  found[#found + 1] = one
end
if #names == most then
  found[2] = 0
else
  local next = redis.call('ZRANGEBYSCORE', schedules .. ':due', '(' .. time, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if next[2] then found[2] = math.ceil(next[2] - time) end
end
return found
"""
)

#: ARGV: prefix, name, leader as it is written, version, slot, next slot ('' for never), when it is due, failures,
#: whether it waits for its last run ('1' | ''), what to note beside the runs ('' for nothing), how many notes are kept,
#: the job to cancel ('' for none), ms after which its process is ended, ttl of a job, the last run that the failures
#: know of, then of each run: its job's id, record's fields (JSON), input, message, note, and since when it could have
#: begun ('' for one that waited for the last run: it is late for that).
#: Returns 'fenced' to who does not lead, 'changed' if the entry is not as it was; or the ids of the jobs accepted.
RUN = (
    _SCHEDULES
    + _WRITE
    + """
local name = id
if redis.call('GET', schedules .. ':leader') ~= ARGV[3] then return {'fenced'} end
local known = redis.call('HMGET', key_of(name), 'version', 'slot')
if known[1] ~= ARGV[4] or known[2] ~= ARGV[5] then return {'changed'} end

if ARGV[12] ~= '' then
  turn(ARGV[12])
  cancel(false, tonumber(ARGV[13]))
end
local accepted = {}
if ARGV[10] ~= '' then
  note(name, ARGV[10], ARGV[11])
  tally(cjson.decode(ARGV[10]).why)
end
redis.call('HSET', key_of(name), 'failures', ARGV[8], 'counted', ARGV[15])
for place = 16, #ARGV, 6 do
  turn(ARGV[place])
  -- The slot's job may have been accepted for an entry of this name that was there before.
  if redis.call('EXISTS', job) == 0 and redis.call('EXISTS', prefix .. 'gone:' .. id) == 0 then
    write(ARGV[place + 1], ARGV[place + 2], ARGV[14], 0, ARGV[place + 3], '')
    accepted[#accepted + 1] = id
    redis.call('HINCRBY', key_of(name), 'runs', 1)
    redis.call('HSET', key_of(name), 'last', id, 'last_at', now())
    note(name, ARGV[place + 4], ARGV[11])
    tally('runs')
    if ARGV[place + 5] ~= '' then count_late(now() - ARGV[place + 5]) end
  end
end
if ARGV[9] == '' then redis.call('HDEL', key_of(name), 'held') else redis.call('HSET', key_of(name), 'held', 1) end
be_due(name, ARGV[6], ARGV[7])
return accepted
"""
)

#: ARGV: prefix, name, leader as it is written, version, why. One that is due no more until somebody changes it.
HALT = (
    _SCHEDULES
    + """
if redis.call('GET', schedules .. ':leader') ~= ARGV[3] then return 0 end
if redis.call('HGET', key_of(id), 'version') ~= ARGV[4] then return 0 end
redis.call('HSET', key_of(id), 'halted', ARGV[5])
tally('paused')
be_due(id, '', '')
return 1
"""
)

#: ARGV: prefix, name, leader as it is written, why. Sets an entry aside that nobody can use.
QUARANTINE = (
    _SCHEDULES
    + """
if redis.call('GET', schedules .. ':leader') ~= ARGV[3] then return 0 end
redis.call('ZREM', schedules .. ':due', id)
if redis.call('EXISTS', key_of(id)) == 0 then return 0 end
redis.call('SADD', schedules .. ':quarantined', id)
redis.call('ZADD', schedules, 0, id)
redis.pcall('HSET', key_of(id), 'quarantined', ARGV[4])
return 1
"""
)

#: ARGV: prefix, name, its job's id, record's fields (JSON), input, message, note, how many notes are kept, a job's ttl.
#: A run on demand, which a worker publishes. Returns whether it was accepted.
RUN_NOW = (
    _SCHEDULES
    + _WRITE
    + """
local name = id
if redis.call('EXISTS', key_of(name)) == 0 then return 0 end
turn(ARGV[3])
write(ARGV[4], ARGV[5], ARGV[9], 0, ARGV[6], '')
publish_later(now())
redis.call('HSET', key_of(name), 'last', id, 'last_at', now())
note(name, ARGV[7], tonumber(ARGV[8]))
return 1
"""
)

#: ARGV: prefix, name, how many notes are kept, a job's ttl, whether they are only asked for ('1' | ''), then of each
#: run: its job's id, record's fields (JSON), input, message, note. Runs of slots that are past, which a worker
#: publishes; the entry's state stays as it is.
#: Returns the ids of the jobs that were accepted, or would be; nothing if there is no entry.
BACKFILL = (
    _SCHEDULES
    + _WRITE
    + """
local name, accepted = id, {}
if redis.call('EXISTS', key_of(name)) == 0 then return end
for place = 6, #ARGV, 5 do
  turn(ARGV[place])
  if redis.call('EXISTS', job) == 0 and redis.call('EXISTS', prefix .. 'gone:' .. id) == 0 then
    accepted[#accepted + 1] = id
    if ARGV[5] == '' then
      write(ARGV[place + 1], ARGV[place + 2], ARGV[4], 0, ARGV[place + 3], '')
      publish_later(cjson.decode(ARGV[place + 4]).slot)  -- the oldest first, and all of them now
      note(name, ARGV[place + 4], tonumber(ARGV[3]))
    end
  end
end
return accepted
"""
)

#: ARGV: prefix, ''. Returns how many entries there are, static ones, and ones that nobody can use; the leader as it is
#: written, and how many there have been; for how many ms the first that is due has been; the counters.
STATISTICS = (
    _SCHEDULES
    + """
local first = redis.call('ZRANGE', schedules .. ':due', 0, 0, 'WITHSCORES')[2]
return {
  redis.call('ZCARD', schedules),
  redis.call('SCARD', schedules .. ':static') - redis.call('SISMEMBER', schedules .. ':static', '-'),
  redis.call('SCARD', schedules .. ':quarantined'),
  redis.call('GET', schedules .. ':leader') or '',
  redis.call('GET', schedules .. ':fence') or 0,
  first and math.max(0, now() - first) or 0,
  redis.call('HGETALL', schedules .. ':statistics'),
}
"""
)
