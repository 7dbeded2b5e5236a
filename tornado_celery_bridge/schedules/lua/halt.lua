-- halt: stop an entry until somebody changes it.
-- KEYS: schedule:{name}, schedules:leader, schedules:due
-- ARGV: prefix, name, leader, version, why
-- Answers: whether it is halted
--   leader: what schedules:leader has while this beat leads.
-- include: statistics

if redis.call('GET', schedules .. ':leader') ~= leader then return 0 end
if redis.call('HGET', key_of(name), 'version') ~= version then return 0 end
redis.call('HSET', key_of(name), 'halted', why)
tally('paused')
be_due(name, '', '')
return 1
