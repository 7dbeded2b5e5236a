-- full: whether an owner may have more unfinished jobs.
-- include: job

local function is_full(owner, most, more)
  return most ~= '' and tonumber(redis.call('HGET', prefix .. 'open', owner) or 0) + more > tonumber(most)
end
