-- step_down: stop being the leader.
-- KEYS: schedules:leader
-- ARGV: prefix, leader
-- Answers: whether it led
--   leader: what schedules:leader has while this beat leads.
-- include: schedules

if redis.call('GET', schedules .. ':leader') ~= leader then return 0 end
return redis.call('DEL', schedules .. ':leader')
