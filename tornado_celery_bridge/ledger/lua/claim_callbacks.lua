-- claim_callbacks: callbacks that are due. Whoever asks has them for lease ms. Receivers with few callbacks under
-- way come first.
-- KEYS: callbacks
-- ARGV: prefix, most, share, lease, looks
-- ROWS: receiver, many
-- Answers: {job's id, callback, tries, when the lease ends} of each
--   share: at most so many of one receiver, with those under way (many). looks: receivers that are looked at.
-- include: clock, callbacks, rows

most, share = tonumber(most), tonumber(share)
local time = now()
local ends = time + lease
local under_way, found = {}, {}
for receiver, many in rows() do under_way[receiver] = tonumber(many) end
local receivers = redis.call('ZRANGEBYSCORE', prefix .. 'callbacks', '-inf', time, 'LIMIT', 0, looks)
table.sort(receivers, function(one, other) return (under_way[one] or 0) < (under_way[other] or 0) end)
for _, receiver in ipairs(receivers) do
  local room = math.max(0, math.min(share - (under_way[receiver] or 0), most - #found))
  local due = redis.call('ZRANGEBYSCORE', prefix .. 'callbacks:' .. receiver, '-inf', time, 'LIMIT', 0, room)
  for _, each in ipairs(due) do
    turn(each)
    local known = redis.call('HMGET', job, 'callback', 'tries')
    if known[1] then
      call_back(receiver, ends)
      found[#found + 1] = {each, known[1], known[2] or '0', string.format('%.0f', ends)}
    else -- somebody has deleted the job by hand
      call_back(receiver)
    end
  end
end
return found
