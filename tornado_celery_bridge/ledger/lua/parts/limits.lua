-- limits: how many jobs of a kind run at once, and how many begin in a time.
--
-- A job passes its task's own limit first, and then the named limit that its task shares with others. What it has
-- passed it holds to the end of its run. While it can't pass, it is in that limit's line, and the first of the line
-- passes when there is a slot and a turn. Whoever waits in the second line holds the first limit's slot: all who do
-- need both, so nobody is held up by that.
-- An own limit is called by the task; with `limit_by`, also by the end of a line and the parameter's value. A named one
-- is called by the end of a line and its name. Bounds are read as they are needed, so a change holds at once.
-- include: clock, job, wake, queues

local limits, lines, used = prefix .. 'limits', prefix .. 'lines', prefix .. 'limits:used'
-- ms by which a line that is late may catch up, and how many jobs one step lets through.
local CATCH_UP, THROUGH = 1000, 100

-- Return the fields of a job that say that it holds a slot of the limit, and that it has had its turn.
local function fields_of(limit)
  if string.sub(limit, 1, 1) == '\n' then return 'shared', 'shared_turn' end
  return 'slot', 'turn'
end

-- Return how many jobs a limit lets run at once, and the ms from one's beginning to the next one's; nil for any.
local function bounds_of(limit)
  local task, most, interval = string.match(limit, '^[^\n]*'), nil, nil
  local code, set
  if task == '' then
    set = redis.call('HGET', limits, 'named' .. limit)
  else
    local known = redis.call('HMGET', limits, 'code\n' .. task, 'task\n' .. task)
    most, interval = string.match(known[1] or '', '^(%d*) (%d*)$')
    set = known[2]
  end
  set = set and cjson.decode(set) or {}
  return tonumber(set.max_concurrency) or tonumber(most), tonumber(set.interval) or tonumber(interval)
end

-- Forget a limit that nobody holds and nobody waits for.
local function drop_unused(limit)
  if redis.call('EXISTS', prefix .. 'slots:' .. limit, prefix .. 'parked:' .. limit) > 0 then return end
  redis.call('ZREM', used, limit)
  redis.call('ZREM', lines, limit)
end

-- Have the worker that publishes look at a limit's line, at this time.
local function look_at(limit, at)
  redis.call('ZADD', lines, at, limit)
  wake_publisher()
end

local function note_turn(limit, at, interval)
  redis.call('SET', prefix .. 'turn:' .. limit, string.format('%.0f', at), 'PX', math.ceil(interval) + CATCH_UP + 1)
end

-- Let the first of a limit's line through, as many as may pass now, at most *count*. A worker publishes them. Return how
-- many.
local function let_through(limit, count)
  local field, had_turn = fields_of(limit)
  local most, interval = bounds_of(limit)
  local slots, parked = prefix .. 'slots:' .. limit, prefix .. 'parked:' .. limit
  local me, time, many, at = id, now(), 0, nil
  local last = interval and tonumber(redis.call('GET', prefix .. 'turn:' .. limit) or 0)
  while true do
    if many >= count then at = time break end
    if most and redis.call('SCARD', slots) >= most then break end
    if interval and last + interval > time then at = last + interval break end
    local first = redis.call('ZPOPMIN', parked)[1]
    if not first then break end
    turn(unpacked(first))
    if redis.call('HGET', job, 'parked') == limit then  -- else it was lost, or deleted by hand
      redis.call('SADD', slots, first)
      redis.call('HSET', job, field, limit)
      redis.call('HDEL', job, 'parked')
      if interval then
        last = math.max(last + interval, time - CATCH_UP)
        note_turn(limit, last, interval)
        redis.call('HSET', job, had_turn, 1)
      end
      publish_later(time)
      many = many + 1
    end
  end
  if at and redis.call('EXISTS', parked) == 1 then look_at(limit, at) else redis.call('ZREM', lines, limit) end
  drop_unused(limit)
  if me then turn(me) end
  return many
end

local function give_up(limit)
  local field, had_turn = fields_of(limit)
  redis.call('SREM', prefix .. 'slots:' .. limit, pack(id))
  redis.call('HDEL', job, field, had_turn)
  let_through(limit, THROUGH)
end

-- Give back what the job holds of its limits. Who has waited the longest gets it, and is published.
local function release()
  local held = redis.call('HMGET', job, 'slot', 'shared')
  if held[1] then give_up(held[1]) end
  if held[2] then give_up(held[2]) end
end

-- Return whether the job passes a limit. If not, it waits in its line, where it is placed by *since*.
local function pass(limit, since)
  local field, had_turn = fields_of(limit)
  local most, interval = bounds_of(limit)
  local slots, parked, packed, time = prefix .. 'slots:' .. limit, prefix .. 'parked:' .. limit, pack(id), now()
  local known = redis.call('HMGET', job, field, had_turn)
  if known[1] and known[1] ~= limit then give_up(known[1]) end  -- of before the task was put under this one
  local holds, runs = known[1] == limit, most and redis.call('SCARD', slots)
  local is_free = not most or runs < most or holds and runs <= most
  local last = interval and not (holds and known[2]) and tonumber(redis.call('GET', prefix .. 'turn:' .. limit) or 0)
  local is_its_turn = not last or last + interval <= time
  if is_free and is_its_turn and (holds or redis.call('EXISTS', parked) == 0) then
    if last then
      note_turn(limit, time, interval)
      redis.call('HSET', job, had_turn, 1)
    end
    redis.call('SADD', slots, packed)
    redis.call('HSET', job, field, limit)
    redis.call('ZADD', used, 0, limit)
    return true
  end
  if holds then give_up(limit) end
  dequeued()
  redis.call('ZADD', parked, since, packed)
  redis.call('ZADD', used, 0, limit)
  redis.call('HSET', job, 'parked', limit)
  if is_free and not is_its_turn and not redis.call('ZSCORE', lines, limit) then look_at(limit, last + interval) end
  return false
end

-- Look at the lines of a task's own limits: more may pass than before.
local function look_at_task(task)
  for _, limit in ipairs(redis.call('ZRANGEBYLEX', used, '[' .. task, '[' .. task .. '\n\255')) do
    look_at(limit, now())
  end
end

-- Note what the task's code says of its own limit, if that is new: whoever changes a bound needs it.
local function declare(task, bounds)
  if bounds == ' ' then
    redis.call('HDEL', limits, 'code\n' .. task)
  else
    redis.call('HSET', limits, 'code\n' .. task, bounds)
  end
  look_at_task(task)
end

-- Have the jobs of a task that run now hold a slot of a limit which is new to them.
local function count_running(task, limit)
  local field, me = fields_of(limit), id
  for _, packed in ipairs(redis.call('ZRANGE', prefix .. 'held', 0, -1)) do
    turn(unpacked(packed))
    local known = redis.call('HMGET', job, 'task', field, 'other')
    if known[1] == task and not known[2] and not known[3] then
      redis.call('SADD', prefix .. 'slots:' .. limit, packed)
      redis.call('HSET', job, field, limit)
      redis.call('ZADD', used, 0, limit)
    end
  end
  if me then turn(me) end
end
