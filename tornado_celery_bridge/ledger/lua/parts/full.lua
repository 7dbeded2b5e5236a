-- full: whether an owner may have more unfinished jobs. Runs of schedules have a bound of their own.
-- include: job

local function is_full(owner, most, more)
  if most == '' then return false end
  local over = tonumber(redis.call('HGET', prefix .. 'open', owner) or 0) + more - tonumber(most)
  return over > 0 and over > tonumber(redis.call('HGET', prefix .. 'open:runs', owner) or 0)
end
