-- expiry: a job that has not begun by a time never will.
-- include: clock, job, reasons

local expiring = prefix .. 'expiring'

-- Note when the job expires, unless it begins before. Its `expires` or `expiring` says that there is such a note.
local function expires_at(at) redis.call('ZADD', expiring, at, pack(id)) end

local function has_expired()
  local at = redis.call('ZSCORE', expiring, pack(id))
  return at and now() >= tonumber(at)
end
