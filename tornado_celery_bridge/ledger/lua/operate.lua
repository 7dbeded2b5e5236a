-- operate: the next step of an operation. What the ledger can do by itself, cancel, delete or count, is done and noted
-- here, in one step. To try jobs again somebody has to submit them: then the step only finds them.
-- KEYS: operation:{operation_id}, operations:open, operations
-- ARGV: prefix, operation_id, most, looks, lease, remembered, keep
-- Answers: the operation's state; nothing if it is not known. Of jobs to try again, then: where the step begins (a score,
--   an id) and ends, how many were looked at and fitted, the reasons why others are left out as JSON; then the id of each
--   job, and of the job to submit
--   most, looks: jobs that are acted on and that are looked at, at most. lease: ms for which the caller carries it on.
--   remembered: ms for which the ids of deleted jobs are known. keep: ms for which the operation is kept after its end.
-- include: select, cancel, delete, operation

take_operation(operation_id)
local known = redis.call('HMGET', operation, 'state', 'action', 'asked', 'dry_run', 'newest', 'after', 'grace')
if known[1] ~= 'RUNNING' then return {known[1]} end
hold_operation(lease)
local action, filter, dry_run = known[2], cjson.decode(known[3]), known[4] ~= ''
local skipped, chosen, matched = {}, {}, 0

-- The id of the job that this operation makes of another one: always the same, so doing a step again makes no second one.
local function made_of(job_id)
  local hash = redis.sha1hex(operation_id .. ' ' .. job_id)
  return (string.gsub(string.sub(hash, 1, 32), '^(........)(....)(....)(....)', '%1-%2-%3-%4-'))
end

-- Why the job at hand is left out; nothing if it is not.
local function reason()
  if action == 'delete' then return reason_to_keep() end
  local state, again = unpack(redis.call('HMGET', job, 'state', 'again'))
  if not state then return 'gone' end
  if action == 'cancel' then return ENDED[state] and 'ended' or nil end
  if not ENDED[state] then return 'not-ended' end
  if state ~= 'FAILURE' and state ~= 'REVOKED' and state ~= filter.state then return 'succeeded' end
  return again and again ~= made_of(id) and 'retried-before' or nil
end

most = dry_run and math.huge or tonumber(most)
local looked, newest, after = select_jobs(filter, known[5], known[6], tonumber(looks), function()
  local why = reason()
  matched = matched + 1
  if why then skipped[why] = (skipped[why] or 0) + 1 else chosen[#chosen + 1] = id end
  return #chosen >= most
end)
newest, after = newest or '', after or ''
if action == 'retry' and not dry_run then
  local found = {known[1], known[5], known[6], newest, after, looked, matched, cjson.encode(skipped)}
  for _, each in ipairs(chosen) do
    found[#found + 1] = each
    found[#found + 1] = made_of(each)
  end
  return found
end
if not dry_run then
  for _, each in ipairs(chosen) do
    turn(each)
    if action == 'cancel' then cancel(false, tonumber(known[7])) else delete_job(remembered) end
  end
end
note_step(newest, after, looked, matched, #chosen, skipped, keep)
return {redis.call('HGET', operation, 'state')}
