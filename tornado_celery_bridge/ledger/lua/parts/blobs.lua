-- blobs: the large values of a job, which are in a store beside Redis.
-- include: job

-- Have a blob kept for as long as the job.
local function adopt_blob(name)
  redis.call('ZREM', prefix .. 'blobs', name)
  redis.call('HSET', job, 'blobs', (redis.call('HGET', job, 'blobs') or '') .. name .. ' ')
end
