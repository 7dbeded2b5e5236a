-- history: counts what happens, for each minute, hour and day.
--
-- The current minute is counted in a hash of its own, one field for each count. When the minute is over, the first who
-- counts in the next one adds it to its hour, its day and the total: once a minute, 0.1 ms for each series. So a count
-- costs one command, and no process is needed that closes the minutes.
--
-- A count's name is a letter, and in some cases a bucket:
-- a accepted, x withdrawn, r retried, l lost with its worker, p published again;
-- w and a bucket: attempts that began, by how long they waited; W: ms that they waited, in all;
-- s, f, v and a bucket: jobs that ended as SUCCESS, FAILURE, REVOKED, by how long they ran; T: ms that they ran.
-- Bucket k has what took up to 2^k ms and longer than bucket k-1. Without a bucket: nobody knows how long it took.
-- A series is a queue's name, the end of a line and a task's name; '' is all series together.
-- include: job
-- include rarely: minutes

local is_open = false

local function count(time, queue, task, what, by)
  local open = prefix .. 'history:open'
  if not is_open then
    local minute, known = math.floor(time / 60000), redis.call('HGET', open, 'minute')
    if known and minute > tonumber(known) then rare.close_minute(tonumber(known)) end
    if not known or minute > tonumber(known) then
      -- A value of over 64 bytes makes a table of the hash, which else is a list that each count is searched in.
      redis.call('HSET', open, 'minute', string.format('%065.0f', minute))
    end
    is_open = true
  end
  redis.call('HINCRBY', open, what .. ' ' .. queue .. '\n' .. task, by or 1)
end

-- The number of the bucket that has so many ms.
local function bucket_of(ms)
  if ms <= 1 then return 0 end
  local mantissa, exponent = math.frexp(ms)
  return math.min(mantissa == 0.5 and exponent - 1 or exponent, 23)
end
