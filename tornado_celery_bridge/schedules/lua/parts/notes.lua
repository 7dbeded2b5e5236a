-- notes: what became of the last runs of an entry, the latest first, as JSON.
-- include: schedules

local function note(name, what, most)
  redis.call('LPUSH', schedules .. ':runs:' .. name, what)
  redis.call('LTRIM', schedules .. ':runs:' .. name, 0, most - 1)
end
