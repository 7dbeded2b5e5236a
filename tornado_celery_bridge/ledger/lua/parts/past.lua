-- past: the attempts of the job that have ended and have not ended the job.
-- include: clock, job

-- The last so many are kept, with so many bytes of an error's message.
local MOST_PAST, MOST_ERROR = 20, 1000

-- Note how the attempt under way has ended: retried | given back | lost. *error*: JSON of why, 'null' for nothing.
local function note_past(outcome, error, traceback)
  local known = redis.call('HMGET', job, 'attempt', 'started_at', 'worker')
  if not known[1] or not known[2] then return end
  if #error > MOST_ERROR then
    local told = cjson.decode(error)
    if type(told.message) == 'string' then told.message = string.sub(told.message, 1, MOST_ERROR) .. '…' end
    error = cjson.encode(told)
  end
  local past = prefix .. 'past:' .. id
  local told = {attempt = tonumber(known[1]), started_at = tonumber(known[2]), ended_at = now(),
    worker = known[3] or '', outcome = outcome, traceback = traceback or ''}
  redis.call('RPUSH', past, '{"error":' .. error .. ',' .. string.sub(cjson.encode(told), 2))
  redis.call('LTRIM', past, -MOST_PAST, -1)
end
