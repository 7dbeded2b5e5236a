-- statistics: counts what happens to the runs.
-- include: schedules

local function tally(what, by) redis.call('HINCRBY', schedules .. ':statistics', what, by or 1) end

-- Count a run that began so many ms late, under the first of *bounds* that is not below. '' is over all bounds.
local function count_late(ms, bounds)
  local bound = ''
  for each in string.gmatch(bounds, '[^,]+') do
    if ms <= tonumber(each) then
      bound = each
      break
    end
  end
  tally('late:' .. bound)
  tally('late', string.format('%.0f', math.max(0, ms)))
end
