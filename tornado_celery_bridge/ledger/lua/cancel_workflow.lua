-- cancel_workflow: cancel jobs of a workflow, as cancel does each.
-- KEYS: workflow:{workflow_id}
-- ARGV: prefix, workflow_id, whole, grace
-- ROWS: job_ids
-- Answers: nothing
--   whole: whether these are all of its jobs.
-- include: cancel

local workflow = prefix .. 'workflow:' .. workflow_id
if tonumber(redis.call('HGET', workflow, 'open') or 0) <= 0 then return end
if whole ~= '' then redis.call('HSET', workflow, 'cancelled', 1) end
-- From the last to the first, so that each is said to be cancelled, and not to have waited for one that was.
for place = #ARGV, FIRST_ROW, -1 do
  turn(ARGV[place])
  cancel(false, tonumber(grace))
end
