-- select: the jobs that a filter fits, newest first, some at a time. The only place that evaluates a filter.
-- include: clock, job

-- Whether the job at hand fits what no index tells of a filter.
local function fits_inside(filter, time)
  local known = redis.call('HMGET', job, 'queue', 'worker', 'attempt', 'created_at', 'eta', 'started_at', 'finished_at')
  if filter.queue and known[1] ~= filter.queue then return false end
  if filter.worker and known[2] ~= filter.worker then return false end
  if filter.min_attempt and tonumber(known[3] or 0) < filter.min_attempt then return false end
  local due, begun, ended = tonumber(known[5] or known[4]), tonumber(known[6]), tonumber(known[7])
  if filter.min_wait and (begun or ended or time) - due < filter.min_wait then return false end
  return not filter.min_run or begun ~= nil and (ended or time) - begun >= filter.min_run
end

-- Call *call* with the packed id of each job that fits, which is the job at hand then, until it answers true or so many
-- *looks* were taken. Return how many were looked at, and where to go on: a score and an id, or nothing at the end.
-- *newest* and *after* are where the last call has ended, '' at the beginning.
local function select_jobs(filter, newest, after, looks, call)
  local time, smallest, others = now(), nil, {}
  for _, its_name in ipairs(filter.indexes) do
    local name = index(its_name)
    local size = redis.call('ZCARD', name)
    if not smallest or size < smallest.size then
      if smallest then others[#others + 1] = smallest.name end
      smallest = {name = name, size = size}
    else
      others[#others + 1] = name
    end
  end
  after = after ~= '' and pack(after)
  if newest == '' then newest = filter.newest end
  local skip, looked = 0, 0
  while true do
    local chunk = redis.call('ZREVRANGEBYSCORE', smallest.name, newest, filter.oldest, 'WITHSCORES', 'LIMIT', skip, 100)
    if #chunk == 0 then return looked end
    for place = 1, #chunk, 2 do
      local each, score = chunk[place], chunk[place + 1]
      -- At one score ids come in falling order; the one to come after and all above it were seen before.
      if not (after and score == newest and each >= after) then
        local fits, is_last = true, false
        looked = looked + 1
        for _, name in ipairs(others) do fits = fits and redis.call('ZSCORE', name, each) end
        if fits then
          turn(unpacked(each))
          if not filter.looks_inside or fits_inside(filter, time) then is_last = call(each) end
        end
        if is_last or looked >= looks then return looked, score, unpacked(each) end
      end
    end
    skip = skip + 100
  end
end
