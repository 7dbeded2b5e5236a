-- take: take the jobs to publish now. Only the leader takes those of the outbox, which keeps their order.
-- KEYS: later, outbox, leader
-- ARGV: prefix, most, me
-- Answers: ms until there is more ('' for never), then the id and the message of each, in order
-- include: clock, queues, messages, each

most = tonumber(most)
local time, found = now(), {''}
local outbox, later = prefix .. 'outbox', prefix .. 'later'
local due = {}
if redis.call('GET', prefix .. 'leader') == me then due = redis.call('ZRANGE', outbox, 0, most - 1) end
for _, each in ipairs(redis.call('ZRANGEBYSCORE', later, '-inf', time, 'LIMIT', 0, most)) do
  due[#due + 1] = each
end
for _, each in ipairs(due) do
  redis.call('ZREM', outbox, each)
  redis.call('ZREM', later, each)
end
each_job(later, due, function(state)
  if waits(state) then
    enqueued(time)
    add_message(found)
  end
end)
local next = redis.call('ZRANGE', later, 0, 0, 'WITHSCORES')
if #due >= most then found[1] = 0 elseif next[2] then found[1] = math.max(0, math.ceil(next[2] - time)) end
return found
