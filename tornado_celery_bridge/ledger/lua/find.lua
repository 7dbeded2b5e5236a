-- find: jobs that are in all of some indexes, newest first.
-- KEYS: index:all
-- ARGV: prefix, most, looks, newest, after, oldest, most_bytes, page_bytes, fields
-- ROWS: indexes
-- Answers: {next newest, next after} or {} at the end, then {id, the fields, value} of each job
--   most_bytes: of a larger value there are only its bytes; 0: of results, and of large errors and progress; '' of none.
--   page_bytes: the page ends with the job that goes beyond these; '' for no bound.
--   looks: jobs that are looked at, at most. newest, oldest: by created_at, '+inf' and '-inf' for any. after: the id to
--   go on after among those of newest, '' to begin.
-- include: read, rows

most, looks, after = tonumber(most), tonumber(looks), after ~= '' and pack(after)
local names = names_in(fields)
local smallest, others = nil, {}
for its_name in rows() do
  local name = index(its_name)
  local size = redis.call('ZCARD', name)
  if not smallest or size < smallest.size then
    if smallest then others[#others + 1] = smallest.name end
    smallest = {name = name, size = size}
  else
    others[#others + 1] = name
  end
end
local found, skip, looked, size = {{}}, 0, 0, 0
page_bytes = tonumber(page_bytes) or math.huge
while looked < looks do
  local chunk = redis.call('ZREVRANGEBYSCORE', smallest.name, newest, oldest, 'WITHSCORES', 'LIMIT', skip, 100)
  if #chunk == 0 then return found end
  for place = 1, #chunk, 2 do
    local each, score = chunk[place], chunk[place + 1]
    -- At one score ids come in falling order; the one to come after and all above it were seen before.
    if not (after and score == newest and each >= after) then
      looked = looked + 1
      local fits = true
      for _, name in ipairs(others) do fits = fits and redis.call('ZSCORE', name, each) end
      if fits then
        turn(unpacked(each))
        local values = read(names, tonumber(most_bytes))
        if values then
          found[#found + 1] = values
          for _, text in ipairs(values) do size = size + #tostring(text) end
        end
      end
      if #found > most or looked >= looks or size > page_bytes then
        found[1] = {score, unpacked(each)}
        return found
      end
    end
  end
  skip = skip + 100
end
return found
