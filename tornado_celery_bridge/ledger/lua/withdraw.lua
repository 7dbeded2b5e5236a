-- withdraw: forget a job that was not published, and let go of its idempotency key ('' for none).
-- A job that a worker has seen stays.
-- KEYS: job:{job_id}, key:{key}
-- ARGV: prefix, job_id, key
-- Answers: whether the job was forgotten
-- include: let_go, forget, history, tried_again, open

turn(job_id)
if redis.call('HGET', job, 'state') ~= 'PENDING' then return 0 end
let_go()
local known = forget()
local owner = known[1]
count(now(), known[7], known[2], 'x')
if known[9] then tried_again(known[9], true) end
opened(owner, nil, -1)
if key ~= '' then redis.call('DEL', prefix .. 'key:' .. key) end
return 1
