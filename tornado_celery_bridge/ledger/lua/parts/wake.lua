-- wake: tells the workers that there is something to publish.
-- include: job

local function wake_publisher()
  redis.call('LPUSH', prefix .. 'wake', 1)
  redis.call('LTRIM', prefix .. 'wake', 0, 0)
end

-- Have a worker publish the job's message, at this time.
local function publish_later(at)
  redis.call('ZADD', prefix .. 'later', at, pack(id))
  wake_publisher()
end
