-- take: take the jobs to publish now, those too that a limit lets through now. Only the leader takes those of the
-- outbox, which keeps their order.
-- KEYS: later, outbox, leader, lines
-- ARGV: prefix, most, me
-- Answers: ms until there is more ('' for never), then the id and the message of each, in order
-- include: clock, queues, messages, each, limits

most = tonumber(most)
local time, found = now(), {''}
local outbox, later = prefix .. 'outbox', prefix .. 'later'
local left = most
for _, limit in ipairs(redis.call('ZRANGEBYSCORE', lines, '-inf', time, 'LIMIT', 0, most)) do
  if left > 0 then left = left - let_through(limit, left) end
end
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
local first = math.huge
for _, set in ipairs({later, lines}) do
  first = math.min(first, tonumber(redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2] or math.huge))
end
if #due >= most then found[1] = 0 elseif first < math.huge then found[1] = math.max(0, math.ceil(first - time)) end
return found
