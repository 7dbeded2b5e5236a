-- read: a job's fields, and its value.
-- include: job

-- In a list, the most bytes of an error or of progress.
local LIST_BYTES = 16384

-- Return the names in a text, between commas.
local function names_in(text)
  local names = {}
  for name in string.gmatch(text, '[^,]+') do names[#names + 1] = name end
  return names
end

-- Return the job's id, its fields of these names and its value; nothing if it is not there. (Each job has the first
-- field.) With most_bytes, for a value of more than these there is the number of its bytes; with 0, for each result.
-- An error or progress may have *least* bytes, LIST_BYTES without it, also if that is more.
local function read(fields, most_bytes, least)
  local values = redis.call('HMGET', job, unpack(fields))
  if not values[1] then return end
  local value = prefix .. 'value:' .. id
  local known = most_bytes and redis.call('HMGET', job, 'state', 'stored') or {}
  local most = most_bytes and math.max(most_bytes, known[1] == 'SUCCESS' and 0 or least or LIST_BYTES)
  local size = most_bytes and not known[2] and redis.call('STRLEN', value) or 0
  values[#values + 1] = size > 0 and size > most and size or redis.call('GET', value)
  table.insert(values, 1, id)
  return values
end
