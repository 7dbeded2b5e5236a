-- tell: writes a task's state for Celery's result backend, as that would itself; never over a success.
-- include: job

local function swap(key, value, seconds)
  if tonumber(seconds) > 0 then return redis.call('SET', key, value, 'GET', 'EX', seconds) end
  return redis.call('SET', key, value, 'GET')
end

local function tell(key, value, seconds)
  if key == '' then return end
  local before = swap(key, value, seconds)
  if before and string.sub(before, 1, 20) == '{"status": "SUCCESS"' then
    swap(key, before, seconds)
  else
    redis.call('PUBLISH', key, value)
  end
end

-- Whether there was such a job, of which somebody has been told.
local function is_forgotten() return redis.call('EXISTS', prefix .. 'gone:' .. id) == 1 end
