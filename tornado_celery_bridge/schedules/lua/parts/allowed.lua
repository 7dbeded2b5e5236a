-- allowed: whether the runs of an owner's entries may begin.
-- include: clock, schedules, off

-- Unfinished runs of schedules that one owner may have, besides what their keys allow.
local MOST_RUNS = 1000

-- Whether the owner's keys, as the service has told, let them run this task now. Nobody has told of any: yes.
local function fits(task, patterns)
  for pattern in string.gmatch(patterns, '%S+') do
    if pattern == task then return true end
    if string.sub(pattern, -1) == '*' and string.sub(task, 1, #pattern - 1) == string.sub(pattern, 1, -2) then
      return true
    end
  end
  return false
end

-- Return why an owner may not begin one more run of this task: 'revoked' (they have no key, any more, that may), 'full'
-- (they have as many unfinished jobs, or runs, as they may); nil if they may. '' is nobody: they may.
local function why_not(owner, task)
  if owner == '' then return end
  local owners = schedules .. ':owners'
  local allowed = redis.call('HGET', owners, owner)
  if not allowed and redis.call('EXISTS', owners) == 1 then return 'revoked' end
  if allowed then
    local ends, most, patterns = string.match(allowed, '^(%d*) (%d*) (.*)$')
    if ends ~= '' and now() >= tonumber(ends) then return 'revoked' end
    if not fits(task, patterns) then return 'revoked' end
    local open = tonumber(redis.call('HGET', prefix .. 'open', owner) or 0)
    if most ~= '' and open >= tonumber(most) then return 'full' end
  end
  if tonumber(redis.call('HGET', prefix .. 'open:runs', owner) or 0) >= MOST_RUNS then return 'full' end
end

-- The same of the run that *record* describes; also 'off', if its task is switched off.
local function why_not_run(record)
  local known = cjson.decode(record)
  if why_off(known.task) then return 'off' end
  return why_not(known.owner or '', known.task)
end
