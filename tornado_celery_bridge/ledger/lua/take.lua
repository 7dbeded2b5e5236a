-- take: take the jobs to publish now. Only the leader takes those of the outbox, which keeps their order.
-- KEYS: later, outbox, leader
-- ARGV: prefix, most, me
-- Answers: ms until there is more ('' for never), then the id and the message of each, in order
-- include: clock, queues, messages

most = tonumber(most)
local time, found = now(), {''}
local due = {}
if redis.call('GET', prefix .. 'leader') == me then due = redis.call('ZRANGE', prefix .. 'outbox', 0, most - 1) end
for _, each in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'later', '-inf', time, 'LIMIT', 0, most)) do
  due[#due + 1] = each
end
for _, each in ipairs(due) do
  turn(unpacked(each))
  redis.call('ZREM', prefix .. 'outbox', each)
  redis.call('ZREM', prefix .. 'later', each)
  local state = redis.call('HGET', job, 'state')
  if state and not ENDED[state] then
    enqueued(time)
    add_message(found)
  end
end
local next = redis.call('ZRANGE', prefix .. 'later', 0, 0, 'WITHSCORES')
if #due >= most then found[1] = 0 elseif next[2] then found[1] = math.max(0, math.ceil(next[2] - time)) end
return found
