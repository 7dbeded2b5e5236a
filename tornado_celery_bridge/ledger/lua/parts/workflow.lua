-- workflow: what the end of a job means for the workflow that it is part of.
-- include: clock, job, wake

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
