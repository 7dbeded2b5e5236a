-- resolve: forget a group of failures, until a job fails so again.
-- KEYS: failures, failure:{group_id}, index:failure:{group_id}
-- ARGV: prefix, group_id
-- Answers: nothing
-- include: failures

drop_group(group_id)
