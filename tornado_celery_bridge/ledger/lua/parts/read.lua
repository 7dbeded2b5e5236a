-- read: a job's fields, and its value.
-- include: job

-- Return the names in a text, between commas.
local function names_in(text)
  local names = {}
  for name in string.gmatch(text, '[^,]+') do names[#names + 1] = name end
  return names
end

-- Return the job's id, its fields of these names and its value; nothing if it is not there. (Each job has the first
-- field.)
local function read(fields)
  local values = redis.call('HMGET', job, unpack(fields))
  if not values[1] then return end
  values[#values + 1] = redis.call('GET', prefix .. 'value:' .. id)
  table.insert(values, 1, id)
  return values
end
