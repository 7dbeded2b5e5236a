-- open: how many unfinished jobs each owner has, and how many of them are runs of schedules.
-- include: job

local function count_open(key, owner, by)
  if redis.call('HINCRBY', prefix .. key, owner, by) <= 0 then redis.call('HDEL', prefix .. key, owner) end
end

-- An owner has one more job, or with -1 one less. *schedule*: of which it is a run; nil or false for none.
local function opened(owner, schedule, by)
  count_open('open', owner, by)
  if schedule then count_open('open:runs', owner, by) end
end
