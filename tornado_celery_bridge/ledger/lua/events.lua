-- events: the events of a job or a workflow after a number; if some of them are not kept, all that are.
-- KEYS: job:{job_id}, events:{job_id}
-- ARGV: prefix, job_id, after, most
-- Answers: the last event's number, the first kept one's, then events as `kind data`
-- include: job

turn(job_id)
after, most = tonumber(after), tonumber(most)
local kept = redis.call('LLEN', events)
local last = tonumber(redis.call('HGET', job, 'number') or kept)  -- a workflow, which is no job, has one event at most
local first = last - kept + 1
local from = math.max(0, after + 1 - first)
local found = redis.call('LRANGE', events, from, from + most - 1)
table.insert(found, 1, first)
table.insert(found, 1, last)
return found
