-- each: takes the jobs of a sorted set in hand, one after the other. A member that is no job any more is removed.
-- include: job

-- Whoever deletes a job by hand, or loses it with a part of Redis, must not stop what is done for all other jobs.
local function each_job(set, members, call)
  for _, packed in ipairs(members) do
    turn(unpacked(packed))
    local state = redis.call('HGET', job, 'state')
    if state then call(state, packed) else redis.call('ZREM', set, packed) end
  end
end
