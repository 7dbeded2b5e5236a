-- pace: how long jobs of a task have waited in a queue and run of late, on average.
-- KEYS: history:open
-- ARGV: prefix, queue, task
-- Answers: {ms that attempts have waited, ms that jobs have run}, each '' if none has yet
--   Of the current and the last minute; if there were none, of the last two hours, the last two days, or all time.
-- include: job

local open, series = prefix .. 'history:open', queue .. '\n' .. task
local minute = tonumber(redis.call('HGET', open, 'minute') or 0)
local LETTERS, MS = {waits = {'w'}, runs = {'s', 'f', 'v'}}, {waits = 'W', runs = 'T'}

local current, names = {}, {'W', 'T'}
for _, letters in pairs(LETTERS) do
  for _, letter in ipairs(letters) do
    for number = 0, 23 do names[#names + 1] = letter .. number end
  end
end
local fields = {}
for place, name in ipairs(names) do fields[place] = name .. ' ' .. series end
for place, many in ipairs(redis.call('HMGET', open, unpack(fields))) do
  if many then current[names[place]] = tonumber(many) end
end

-- The mean of what is in all of these counts.
local function mean(counts, what)
  local many, ms = 0, 0
  for _, each in ipairs(counts) do
    for _, letter in ipairs(LETTERS[what]) do
      for number = 0, 23 do many = many + (each[letter .. number] or 0) end
    end
    ms = ms + (each[MS[what]] or 0)
  end
  return many > 0 and ms / many
end

local found = {}
for _, span in ipairs({{'minute', 1}, {'hour', 60}, {'day', 1440}, {'all'}}) do
  local name, length = span[1], span[2]
  local first, slots = length and minute - minute % length, {'all'}
  if name == 'minute' then
    slots = {string.format('minute:%.0f', first - 1)}
  elseif length then
    slots = {string.format('%s:%.0f', name, first), string.format('%s:%.0f', name, first - length)}
  end
  local counts = {current}
  for _, slot in ipairs(slots) do
    local packed = redis.call('HGET', prefix .. 'history:' .. slot, series)
    if packed then counts[#counts + 1] = cjson.decode(packed) end
  end
  for _, what in ipairs({'waits', 'runs'}) do found[what] = found[what] or mean(counts, what) end
  if found.waits and found.runs then break end
end
return {found.waits and string.format('%.0f', found.waits) or '', found.runs and string.format('%.0f', found.runs) or ''}
