-- find: jobs that a filter fits, newest first.
-- KEYS: index:all
-- ARGV: prefix, filter, most, looks, newest, after, most_bytes, page_bytes, fields, brief
-- Answers: {next newest, next after, bytes} or {'', '', bytes} at the end, then {id, the fields, value, the input's
--   beginning} of each job
--   filter: JSON, as Filter.for_lua of ../filters.py has it. newest, after: where the page before has ended, '' to begin.
--   most_bytes: of a larger value there are only its bytes; 0: of results, and of large errors and progress; '' of none.
--   page_bytes: the page ends with the job that goes beyond these; '' for no bound. looks: jobs that are looked at.
--   brief: the bytes of an input's beginning.
-- include: read, select

most, page_bytes = tonumber(most), tonumber(page_bytes) or math.huge
local names, found, size = names_in(fields), {{}}, 0
local _, score, last = select_jobs(cjson.decode(filter), newest, after, tonumber(looks), function()
  local values = read(names, tonumber(most_bytes))
  if not values then return end
  values[#values + 1] = redis.call('GETRANGE', prefix .. 'input:' .. id, 0, brief - 1)
  found[#found + 1] = values
  for _, text in ipairs(values) do size = size + #tostring(text) end
  return #found > most or size > page_bytes
end)
found[1] = {score or '', last or '', size}
return found
