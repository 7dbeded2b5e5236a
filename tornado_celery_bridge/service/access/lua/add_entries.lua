-- add_entries: append entries to the audit log; of each kind, only the last ones are kept.
-- KEYS: audit, audit:submit
-- ARGV: prefix, most
-- ROWS: is_submission, entry
-- Answers: nothing
-- include: rows

for is_submission, entry in rows() do
  local log = prefix .. (is_submission == '' and 'audit' or 'audit:submit')
  redis.call('XADD', log, 'MAXLEN', '~', most, '*', 'entry', entry)
end
