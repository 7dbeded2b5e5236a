-- add_entries: append entries to the audit log, and count requests that were refused. Of each key, and of each kind, only
-- the last entries are kept: no key's requests push out what another did.
-- KEYS: audit:keys, audit:number, audit:refused, audit:refused_at
-- ARGV: prefix, most, at
-- ROWS: key, kind, entry
-- Answers: nothing
--   at: when refusals were counted, as it is shown. kind: 'submit', 'other', or the status of refusals; then entry is how
--   many there were.
-- include: rows

for key, kind, entry in rows() do
  if tonumber(kind) then
    local refusal = key .. ' ' .. kind
    redis.call('HINCRBY', prefix .. 'audit:refused', refusal, entry)
    redis.call('HSET', prefix .. 'audit:refused_at', refusal, at)
  else
    -- Of all lists together, so that they have one order, and no two entries the same place in it.
    local number = string.format('%.0f-0', redis.call('INCR', prefix .. 'audit:number'))
    redis.call('SADD', prefix .. 'audit:keys', key)
    redis.call('XADD', prefix .. 'audit:' .. kind .. ':' .. key, 'MAXLEN', '~', most, number, 'entry', entry)
  end
end
