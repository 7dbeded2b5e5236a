-- take_request: take one request off what a key may make, by the generic cell rate algorithm.
-- One moment is kept: when the allowance will be whole again. A refused request takes nothing and moves nothing.
-- KEYS: rate:{key_id}
-- ARGV: prefix, key_id, interval, whole, owed
-- Answers: {whether it is granted, how many are left, until there is one more}
--   Times are µs of Redis' own clock. interval: after which a request comes back; whole: the interval of all of them.
--   owed: requests that are taken whether there are so many or not; '' to take one that may be refused.

interval, whole = tonumber(interval), tonumber(whole)
local key, time = prefix .. 'rate:' .. key_id, redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full_at = math.max(tonumber(redis.call('GET', key) or now), now)
local left, taken = whole - (full_at - now), 0
local cost = interval * (tonumber(owed) or 1)
if owed ~= '' or left >= cost then
  left, taken = left - cost, 1
  redis.call('SET', key, string.format('%.0f', full_at + cost), 'PX', math.ceil((whole - left) / 1000))
end
local remaining = math.max(0, math.floor(left / interval))
return {taken, remaining, (remaining + 1) * interval - left}
