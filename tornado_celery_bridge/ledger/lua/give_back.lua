-- give_back: an attempt is given up through no fault of the job's: another one begins, and no life of the job is used.
-- Nor does it count as a beginning of a task that is no job.
-- KEYS: job:{job_id}, events:{job_id}, later
-- ARGV: prefix, job_id, token, publish
-- Answers: whether the attempt was under way
--   publish: whether the ledger's copy of the message is to be published; else the message goes back into its queue.
-- include: cancel, wait_again, wake

turn(job_id)
local known = redis.call('HMGET', job, 'state', 'token', 'cancelled')
if not known[1] then redis.call('DEL', prefix .. 'begun:' .. id) end
if not known[1] or bucket(known[1]) ~= 'STARTED' or known[2] ~= token then return 0 end
if known[3] then
  finish(known[1], 'REVOKED', CANCELLED)
  return 1
end
wait_again(known[1], 'given back')
if publish ~= '' then
  dequeued()
  publish_later(now())
end
return 1
