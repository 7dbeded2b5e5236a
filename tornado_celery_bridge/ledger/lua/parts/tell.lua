-- tell: writes a task's state for Celery's result backend, as that would itself; never over a success.

local function tell(key, value, seconds)
  if key == '' or redis.call('GETRANGE', key, 0, 19) == '{"status": "SUCCESS"' then return end
  if tonumber(seconds) > 0 then redis.call('SETEX', key, seconds, value) else redis.call('SET', key, value) end
  redis.call('PUBLISH', key, value)
end
