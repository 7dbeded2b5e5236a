-- tried_again: a job that failed leaves its group of failures when it is tried again, and has the new one's id.
-- include: job

-- With *taken_back* it joins the group again: the new job was not published after all.
local function tried_again(failed, taken_back)
  local its_key = prefix .. 'job:' .. failed
  local known = redis.call('HMGET', its_key, 'failure', 'created_at', 'state')
  if not known[3] then return end
  if taken_back then redis.call('HDEL', its_key, 'again') else redis.call('HSET', its_key, 'again', id) end
  if not known[1] then return end
  if not taken_back then
    redis.call('ZREM', index('failure:' .. known[1]), pack(failed))
  elseif redis.call('EXISTS', prefix .. 'failure:' .. known[1]) == 1 then
    redis.call('ZADD', index('failure:' .. known[1]), known[2], pack(failed))
  end
end
