-- history: what has happened, by the counts' names (see parts/history.lua).
-- KEYS: history:open
-- ARGV: prefix, queue, task
-- ROWS: slots
-- Answers: the minute that is open, or nothing; its fields and counts; then for each slot series and JSON, of all
-- series that fit, or without queue and task of all series together
--   queue, task: '' for all. slots: minute:…, hour:…, day:… or all.
-- include: rows

local open = prefix .. 'history:open'
local found = {redis.call('HGET', open, 'minute'), redis.call('HGETALL', open)}
for name in rows() do
  local slot, series = prefix .. 'history:' .. name, {}
  if name == 'all' then
    series = redis.call('HGETALL', slot)
  elseif queue == '' and task == '' then
    series = {'', redis.call('HGET', slot, '')}
  elseif queue ~= '' and task ~= '' then
    series = {queue .. '\n' .. task, redis.call('HGET', slot, queue .. '\n' .. task)}
  else
    for _, each in ipairs(redis.call('HKEYS', slot)) do
      if (queue ~= '' and string.sub(each, 1, #queue + 1) == queue .. '\n')
        or (task ~= '' and string.sub(each, -#task - 1) == '\n' .. task) then
        series[#series + 1] = each
        series[#series + 1] = redis.call('HGET', slot, each)
      end
    end
  end
  found[#found + 1] = series
end
return found
