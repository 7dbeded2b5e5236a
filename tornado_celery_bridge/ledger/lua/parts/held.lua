-- held: for how many ms a worker holds a job without saying so again.

local LEASE = 10000
