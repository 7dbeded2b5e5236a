-- delete: removes a job that has ended, and Celery's own result of it.
-- include: forget

-- Why the job at hand can't be deleted; nothing if it can.
local function reason_to_keep()
  local known = redis.call('HMGET', job, 'state', 'workflow', 'delivery')
  if not known[1] then return 'gone' end
  if not ENDED[known[1]] then return 'not-ended' end
  local open = known[2] and redis.call('HGET', prefix .. 'workflow:' .. known[2], 'open')
  if open and tonumber(open) > 0 then return 'workflow-not-ended' end
  if known[3] == 'waiting' then return 'callback-waiting' end
end

-- For *remembered* ms it is known to have been: a late message of it must not run.
local function delete_job(remembered)
  local known = forget()
  redis.call('ZREM', prefix .. 'due', pack(id))
  redis.call('SET', prefix .. 'gone:' .. id, known[1], 'PX', remembered)
  local results = redis.call('HGET', prefix .. 'results', 'prefix')
  if results then redis.call('DEL', results .. id) end
end
