-- in_hand: a worker has taken the messages of jobs, and will begin them later: they are not lost.
-- KEYS: doubted
-- ARGV: prefix
-- ROWS: job_id
-- Answers: nothing
-- include: copies, rows

for each in rows() do
  turn(each)
  arrived()
end
