-- write: writes a new job down.
-- include: clock, job, queues, history, open
-- include rarely: blobs, tried_again, expiry

-- *fields*: JSON of the record's fields. *delay*: ms until it is due; nil for a job that others come before.
local function write(fields, input, ttl, delay, message, callback)
  local time, record, packed = now(), cjson.decode(fields), pack(id)
  local first = {'ttl', ttl, 'state', 'PENDING'}
  local function set(name, value) first[#first + 1], first[#first + 2] = name, value end
  for name, value in pairs(record) do set(name, value) end
  if callback ~= '' then set('callback', callback) end
  if delay then set('due', time + delay) end
  if delay and tonumber(delay) > 0 then set('delayed', 1) end
  redis.call('HSET', job, unpack(first))
  if delay then enqueued(time + delay, record.queue .. ':' .. (record.priority or '')) end
  -- From now on: the clock of whoever submits may be another than the server's.
  if record.expires then rare.expires_at(time + math.max(0, record.expires - record.created_at)) end
  if message ~= '' then
    redis.call('MSET', prefix .. 'input:' .. id, input, prefix .. 'message:' .. id, message)
  else
    redis.call('SET', prefix .. 'input:' .. id, input)
  end
  local blob = string.match(input, '^"(.*)"$')
  if blob then rare.adopt_blob(blob) end
  opened(record.owner, record.schedule, 1)
  count(time, record.queue, record.task, 'a')
  redis.call('DEL', prefix .. 'gone:' .. id)
  if record.retry_of then rare.tried_again(record.retry_of) end
  local indexes = {'all', 'task:' .. record.task, 'state:PENDING'}
  if record.owner ~= '' then indexes[#indexes + 1] = 'owner:' .. record.owner end
  for _, tag in ipairs(cjson.decode(record.tags or '[]')) do indexes[#indexes + 1] = 'tag:' .. tag end
  for _, name in ipairs(indexes) do redis.call('ZADD', index(name), record.created_at, packed) end
end
