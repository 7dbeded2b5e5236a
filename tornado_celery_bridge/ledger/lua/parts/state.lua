-- state: the job's state in the indexes, and the value that goes with it.
-- include: job

-- Most values are null, and a key for that would cost more than all other keys of the job.
local function set_value(value)
  if value == 'null' then
    redis.call('DEL', prefix .. 'value:' .. id)
  else
    redis.call('SET', prefix .. 'value:' .. id, value)
  end
end

-- List the job under another state. *created_at*: of the job, where it is known.
local function move_state(from, to, created_at)
  from, to = bucket(from), bucket(to)
  if from == to then return end
  redis.call('ZREM', index('state:' .. from), pack(id))
  redis.call('ZADD', index('state:' .. to), created_at or redis.call('HGET', job, 'created_at'), pack(id))
end
