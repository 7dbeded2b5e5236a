-- find_entries: the newest entries of the audit log, of all keys.
-- KEYS: audit:keys
-- ARGV: prefix, most, newest
-- Answers: {id, entry} of the newest of each key and kind, in no order; the newest *most* of all are among them
--   newest: the id to begin with, '+' for any.

-- A page of so many is in as many lists at most: those whose last entries are the newest.
local lists = {}
for _, key in ipairs(redis.call('SMEMBERS', prefix .. 'audit:keys')) do
  for _, kind in ipairs({'submit', 'other'}) do
    local list = prefix .. 'audit:' .. kind .. ':' .. key
    local last = redis.call('XREVRANGE', list, newest, '-', 'COUNT', 1)[1]
    if last then
      lists[#lists + 1] = {list, tonumber(string.match(last[1], '%d+'))}
    end
  end
end
table.sort(lists, function(one, other) return one[2] > other[2] end)
local found = {}
for place = 1, math.min(#lists, tonumber(most)) do
  for _, each in ipairs(redis.call('XREVRANGE', lists[place][1], newest, '-', 'COUNT', most)) do
    found[#found + 1] = {each[1], each[2][2]}
  end
end
return found
