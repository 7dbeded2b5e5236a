-- events: the events of a job or a workflow after a number; if some of them are not kept, all that are.
-- KEYS: job:{job_id}, events:{job_id}, items:{job_id}
-- ARGV: prefix, job_id, after, most
-- Answers: the last event's number, the first kept one's, then events as `kind data`; one of an item that is no longer
--   kept is a `snapshot`
-- include: job

turn(job_id)
after, most = tonumber(after), tonumber(most)
local kept = redis.call('LLEN', events)
local last = tonumber(redis.call('HGET', job, 'number') or kept)  -- a workflow, which is no job, has one event at most
local first = last - kept + 1
local from = math.max(0, after + 1 - first)
local found = redis.call('LRANGE', events, from, from + most - 1)

-- The event of an item has its place among all items of the job. Those found come one after the other.
local places, lowest, highest = {}, nil, nil
for at, event in ipairs(found) do
  local place = tonumber(string.match(event, '^item (%d+)$'))
  if place then
    places[at], lowest, highest = place, lowest or place, place
  end
end
if lowest then
  local items = prefix .. 'items:' .. id
  local gone = redis.call('HGET', job, 'items') - redis.call('LLEN', items)
  lowest = math.max(lowest, gone + 1)
  local data = highest >= lowest and redis.call('LRANGE', items, lowest - gone - 1, highest - gone - 1) or {}
  for at, place in pairs(places) do
    local item = data[place - lowest + 1]
    found[at] = item and string.gsub(item, '^%d+', 'item', 1) or 'snapshot {}'
  end
end

table.insert(found, 1, first)
table.insert(found, 1, last)
return found
