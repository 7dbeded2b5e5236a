-- select: the jobs that a filter fits, newest first, some at a time. The only place that evaluates a filter.
-- include: clock, job

-- Of a longer input, result or error the first bytes are searched.
local SEARCHED = 16384

-- Whether each of the words is in the job's input, its result or error, its tags or its metadata; and how many looks at
-- jobs that has cost. The words are in lower case, and as JSON has them.
local function has_words(words)
  local known = redis.call('HMGET', job, 'tags', 'options')
  local texts = {known[1] or ''}
  local own = known[2] and string.find(known[2], '"metadata":', 1, true) and cjson.decode(known[2]).metadata
  if own then texts[2] = cjson.encode(own) end
  for _, name in ipairs({'input:', 'value:'}) do
    texts[#texts + 1] = redis.call('GETRANGE', prefix .. name .. id, 0, SEARCHED - 1)
  end
  local text = string.lower(table.concat(texts, '\n'))
  local cost = 3 + math.floor(#text / 2048)
  for _, word in ipairs(words) do
    if not string.find(text, word, 1, true) then return false, cost end
  end
  return true, cost
end

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
-- *looks* were taken (a search in a job's texts is several). Return how many were looked at, and where to go on: a score and an id, or nothing at the end.
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
  local skip, looked, cost = 0, 0, 0
  while true do
    local chunk = redis.call('ZREVRANGEBYSCORE', smallest.name, newest, filter.oldest, 'WITHSCORES', 'LIMIT', skip, 100)
    if #chunk == 0 then return looked end
    for place = 1, #chunk, 2 do
      local each, score = chunk[place], chunk[place + 1]
      -- At one score ids come in falling order; the one to come after and all above it were seen before.
      if not (after and score == newest and each >= after) then
        local fits, is_last = true, false
        looked, cost = looked + 1, cost + 1
        for _, name in ipairs(others) do fits = fits and redis.call('ZSCORE', name, each) end
        if fits then
          turn(unpacked(each))
          fits = not filter.looks_inside or fits_inside(filter, time)
          if fits and filter.words then
            local its_cost
            fits, its_cost = has_words(filter.words)
            cost = cost + its_cost
          end
          if fits then is_last = call(each) end
        end
        if is_last or cost >= looks then return looked, score, unpacked(each) end
      end
    end
    skip = skip + 100
  end
end
