-- What finish.lua and close.lua have in common: whose a job's result is.

-- Whether an attempt may store the job's result: 'stored', it has; 'owned', it may; 'fenced', another attempt owns the
-- job, or the caller gave it up. Attempts only rise: one that is older than the caller's shows that a failover lost the
-- caller's claim, and then the result is welcome.
local function standing(hash, result, worker, attempt)
  local state = redis.call('HMGET', hash, 'owner', 'attempt', 'finished_by')
  local stored = redis.call('EXISTS', result) == 1
  if state[3] == worker .. ':' .. attempt and stored then
    return 'stored'
  end
  local latest = count(state[2], 0)
  if state[1] == worker and state[2] == attempt or latest and latest < tonumber(attempt) and not stored then
    return 'owned'
  end
  return 'fenced'
end

-- Have a job's hash say that this attempt has ended it; what only mattered until then goes.
local function ended(hash, cancel, parts, worker, attempt, life)
  local me = worker .. ':' .. attempt
  redis.call('HSET', hash, 'attempt', attempt, 'finished_by', me, 'finished_at', math.floor(clock()))
  redis.call('HDEL', hash, 'owner', 'slot', 'nonce', 'cancel')
  redis.call('DEL', cancel, parts)
  redis.call('EXPIRE', hash, life)
end
