-- resolve: forget a group of failures, until a job fails so again.
-- KEYS: failures, failure:{group_id}, index:failure:{group_id}
-- ARGV: prefix, group_id
-- Answers: nothing
-- include: failures

local prefix, group_id = unpack(ARGV)

drop_group(group_id)
