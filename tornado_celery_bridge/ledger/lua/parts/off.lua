-- off: whether a task is switched off, so that no new job of it is accepted.
-- include: job

-- Return JSON of why; nothing if it is not.
local function why_off(task) return redis.call('HGET', prefix .. 'limits', 'off\n' .. task) end
