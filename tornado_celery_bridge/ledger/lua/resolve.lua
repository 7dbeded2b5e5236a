-- resolve: forget a group of failures. If a job fails in the same way again, there is a new one.
-- KEYS: failures, failure:{group_id}, index:failure:{group_id}
-- ARGV: prefix, group_id
-- Answers: nothing
-- include: failures

drop_group(group_id)
