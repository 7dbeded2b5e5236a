-- cancel: ends the job if it has not begun; marks it if it runs.
-- include: finish, reasons

-- Return the state that it was in. After *grace* ms, if that is not 0, its worker ends the process of one that goes on.
local function cancel(unless_begun, grace)
  local state = redis.call('HGET', job, 'state')
  if not state or ENDED[state] then return state end
  if bucket(state) ~= 'STARTED' then
    finish(state, 'REVOKED', CANCELLED)
  elseif not unless_begun then
    redis.call('HSET', job, 'cancelled', grace > 0 and now() + grace or 0)
  end
  return state
end
