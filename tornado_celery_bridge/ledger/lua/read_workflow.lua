-- read_workflow: a workflow and all of its jobs, as they are at one moment.
-- KEYS: workflow:{workflow_id}
-- ARGV: prefix, workflow_id, most_bytes, fields
-- Answers: {record, cancelled or '', {id, the fields, value} of each job…}; {owner} of one that was forgotten; {} if
-- there was none
--   most_bytes: of a result that is larger than its share of these there are only its bytes; '' for no bound. Errors
--   and progress may be larger, up to as many bytes more for all jobs.
-- include: read

local known = redis.call('HMGET', prefix .. 'workflow:' .. workflow_id, 'record', 'cancelled', 'jobs')
if not known[1] then return {redis.call('GET', prefix .. 'gone-workflow:' .. workflow_id) or nil} end
local found, names, jobs = {known[1], known[2] or ''}, names_in(fields), cjson.decode(known[3])
local share, left = tonumber(most_bytes) and math.floor(most_bytes / #jobs), tonumber(most_bytes) or 0
for _, each in ipairs(jobs) do
  turn(each)
  local values = read(names, share, left <= 0 and 0 or nil)
  -- It is being forgotten.
  if not values then return {redis.call('HGET', prefix .. 'workflow:' .. workflow_id, 'owner')} end
  found[#found + 1] = values
  local value = values[#values]
  if share and type(value) == 'string' then left = left - math.max(0, #value - share) end
end
return found
