-- accept_workflow: write a workflow and all of its jobs down, and hold its idempotency key.
-- KEYS: workflow:{workflow_id}, message:{workflow_id}, open, key:{key}, limits
-- ARGV: prefix, workflow_id, record, owner, ttl, most, key, fingerprint, key_ttl, key_lease, after, message,
--   on_error
-- ROWS: job_id, task, record, input, delay, before, callback, message
-- Answers: as accept
--   after: JSON, lists of the ids of the jobs that come after others, by the name that those have as `before`.
--   on_error: id of the job that runs when another does not succeed, '' for none. Of a job: delay is '' if others come
--   before it, before, callback and message are '' for none.
-- include: reserve, full, write, rows, off

local held, hold = reserve(key, fingerprint, key_ttl, key_lease)
if held then return held end
local workflow = prefix .. 'workflow:' .. workflow_id
if redis.call('EXISTS', workflow) == 1 then return {'exists'} end
local ids = {}
for each, its_task in rows() do
  local off = why_off(its_task)
  if off then return {'off', off} end
  ids[#ids + 1] = each
end
if is_full(owner, most, #ids) then return {'full'} end
for each, _, its_record, input, delay, before, callback, its_message in rows() do
  turn(each)
  write(its_record, input, ttl, delay ~= '' and delay, its_message, callback)
  if before ~= '' then redis.call('HSET', job, 'before', before) end
end
redis.call('HSET', workflow, 'record', record, 'owner', owner, 'ttl', ttl, 'jobs', cjson.encode(ids), 'open', #ids)
for before, ids_after in pairs(cjson.decode(after)) do
  redis.call('HSET', workflow, 'after:' .. before, cjson.encode(ids_after))
end
if on_error ~= '' then redis.call('HSET', workflow, 'on_error', on_error) end
redis.call('SET', prefix .. 'message:' .. workflow_id, message)
redis.call('DEL', prefix .. 'gone-workflow:' .. workflow_id)
if hold then hold() end
return {'accepted'}
