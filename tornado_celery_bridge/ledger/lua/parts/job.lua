-- job: the job at hand, its id in indexes, and its state there.

local prefix = ARGV[1]
local id, job, events  -- of the job at hand: its id, its hash, and the list and channel of its events
local ENDED = {SUCCESS = true, FAILURE = true, REVOKED = true, IGNORED = true}

-- Take another job in hand: what follows is about that one.
local function turn(to)
  id, job, events = to, prefix .. 'job:' .. to, prefix .. 'events:' .. to
end

-- The state that a job is listed under. A state of the task's own, such as PROGRESS, is listed as STARTED.
local function bucket(state)
  if ENDED[state] or state == 'PENDING' or state == 'RETRY' then return state end
  return 'STARTED'
end

local function index(name) return prefix .. 'index:' .. name end

-- An id as it is in an index. A UUID as Python writes it takes 16 bytes there, not 36. Any other id has a '=' before it,
-- or, as it would be taken for a UUID if that were 16 bytes, a '~' before and after it.
local packed_ids = {}
local UUID = '^(%x%x%x%x%x%x%x%x)%-(%x%x%x%x)%-(%x%x%x%x)%-(%x%x%x%x)%-(%x%x%x%x)(%x%x%x%x%x%x%x%x)$'
local function pack(name)
  if packed_ids[name] then return packed_ids[name] end
  local packed = #name == 15 and '~' .. name .. '~' or '=' .. name
  if #name == 36 and not string.find(name, '%u') then
    local a, b, c, d, e, f = string.match(name, UUID)
    if a then
      packed = struct.pack('>I4I4I4I4', tonumber(a, 16), tonumber(b .. c, 16), tonumber(d .. e, 16), tonumber(f, 16))
    end
  end
  packed_ids[name] = packed
  return packed
end

local function unpacked(packed)
  if #packed ~= 16 then return string.sub(packed, 2, string.sub(packed, 1, 1) == '~' and -2 or -1) end
  local hex = string.gsub(packed, '.', function(byte) return string.format('%02x', string.byte(byte)) end)
  return (string.gsub(hex, '^(........)(....)(....)(....)', '%1-%2-%3-%4-'))
end
