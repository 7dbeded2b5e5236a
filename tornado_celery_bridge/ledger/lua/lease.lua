-- lease: a worker renews the leases of the jobs that it runs, and ends those of the jobs that it no longer runs.
-- KEYS: held, workers, worker:{worker}
-- ARGV: prefix, worker, about
-- ROWS: job_id, token, runs
-- Answers: the ids of jobs that were cancelled, and of those of them that have not ended in time
--   about: JSON about the worker for monitors, '' when it ends. runs: whether it runs the job.
-- include: clock, job, held, rows

local time, cancelled, late, mine = now(), {}, {}, {}
for each, token, runs in rows() do
  turn(each)
  local known, held = redis.call('HMGET', job, 'token', 'cancelled'), prefix .. 'held'
  if known[1] == token then
    if runs ~= '' then
      redis.call('ZADD', held, 'XX', time + LEASE, pack(id))
      mine[#mine + 1] = id
      local deadline = tonumber(known[2] or 0)
      if known[2] then cancelled[#cancelled + 1] = id end
      if deadline > 0 and deadline <= time then late[#late + 1] = id end
    else
      redis.call('ZADD', held, 'XX', time, pack(id))
    end
  end
end
local its_key = prefix .. 'worker:' .. worker
if about == '' then
  redis.call('DEL', its_key)
  redis.call('ZREM', prefix .. 'workers', worker)
else
  redis.call('HSET', its_key, 'about', about, 'jobs', table.concat(mine, ','))
  redis.call('PEXPIRE', its_key, 3600000)
  redis.call('ZADD', prefix .. 'workers', time, worker)
  redis.call('ZREMRANGEBYSCORE', prefix .. 'workers', '-inf', time - 3600000)
end
return {cancelled, late}
