-- withdraw_workflow: forget a workflow that was not published, and let go of its idempotency key ('' for none).
-- If a worker has seen any of its jobs, all of them stay.
-- KEYS: workflow:{workflow_id}, message:{workflow_id}, key:{key}
-- ARGV: prefix, workflow_id, key
-- Answers: whether the workflow was forgotten
-- include: let_go, forget, history, open

local workflow = prefix .. 'workflow:' .. workflow_id
local jobs = redis.call('HGET', workflow, 'jobs')
if not jobs then return 0 end
jobs = cjson.decode(jobs)
for _, each in ipairs(jobs) do
  if redis.call('HGET', prefix .. 'job:' .. each, 'state') ~= 'PENDING' then return 0 end
end
for _, each in ipairs(jobs) do
  turn(each)
  let_go()
  local known = forget()
  local owner = known[1]
  count(now(), known[7], known[2], 'x')
  opened(owner, nil, -1)
end
redis.call('DEL', workflow, prefix .. 'message:' .. workflow_id)
if key ~= '' then redis.call('DEL', prefix .. 'key:' .. key) end
return 1
