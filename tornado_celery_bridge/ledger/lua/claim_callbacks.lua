-- claim_callbacks: callbacks that are due. Whoever asks has them for lease ms. Owners with few callbacks under way come
-- first, and of theirs receivers with few.
-- KEYS: callbacks
-- ARGV: prefix, most, owner_share, share, lease, looks
-- ROWS: receiver, many
-- Answers: {job's id, callback, tries, when the lease ends} of each
--   owner_share, share: at most so many of one owner, unless there are no owners, and of one receiver of theirs; with
--   those under way (many). looks: owners that are looked at, and receivers of each.
-- include: clock, callbacks, rows

most, owner_share, share = tonumber(most), tonumber(owner_share), tonumber(share)
local time = now()
local ends = time + lease
local under_way, found = {}, {}
local function count(name, many) under_way[name] = (under_way[name] or 0) + many end
for receiver, many in rows() do
  count(receiver, tonumber(many))
  count('of:' .. owner_of(receiver), tonumber(many))
end

-- Return those of an index that are due, the ones with the fewest under way first.
local function due_in(index, kind)
  local names = redis.call('ZRANGEBYSCORE', index, '-inf', time, 'LIMIT', 0, looks)
  table.sort(names, function(one, other)
    return (under_way[kind .. one] or 0) < (under_way[kind .. other] or 0)
  end)
  return names
end

local function claim(receiver, room)
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

for _, owner in ipairs(due_in(prefix .. 'callbacks', 'of:')) do
  local before = #found - (under_way['of:' .. owner] or 0)
  local last = owner == '' and most or math.min(most, before + owner_share)
  for _, receiver in ipairs(due_in(prefix .. 'callbacks:of:' .. owner, '')) do
    if #found >= last then break end
    claim(receiver, math.max(0, math.min(share - (under_way[receiver] or 0), last - #found)))
  end
end
return found
