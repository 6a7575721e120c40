-- Store a job's result, if the caller still owns the job. Safe to repeat.
--
-- KEYS[1]  {result:<id>}:job   hash: the job's state
-- KEYS[2]  result:<id>         string: the job's result
-- KEYS[3]  {result:<id>}:parts:<attempt>  string: a large result, as far as it was sent
-- KEYS[4]  {result:<id>}:cancel   anything: somebody wanted the job to be stopped
-- ARGV[1]  worker id
-- ARGV[2]  attempt
-- ARGV[3]  life of the result, in seconds
-- ARGV[4]  the result, JSON; empty if it lies in KEYS[3]
-- ARGV[5]  life of the hash, in seconds
-- ARGV[6]  how many bytes KEYS[3] has to hold; 0 if the result is in ARGV[4]
--
-- Returns 1: stored; 0: fenced, another attempt owns the job, or the caller gave it up; -1: KEYS[3] is not whole, a
-- failover lost some of it. Attempts only rise: one that is older than the caller's shows that a failover lost the
-- caller's claim, and then the result is welcome.
local state = redis.call('HMGET', KEYS[1], 'owner', 'attempt', 'finished_by')
local me = ARGV[1] .. ':' .. ARGV[2]
local stored = redis.call('EXISTS', KEYS[2]) == 1
if state[3] == me and stored then
  return 1
end
local mine = state[1] == ARGV[1] and state[2] == ARGV[2]
local latest = count(state[2], 0)
local claim_lost = latest and latest < tonumber(ARGV[2]) and not stored
if not mine and not claim_lost then
  redis.call('DEL', KEYS[3])
  return 0
end
if ARGV[6] == '0' then
  redis.call('DEL', KEYS[3])  -- of a result that was too large
  redis.call('SETEX', KEYS[2], ARGV[3], ARGV[4])
elseif redis.call('STRLEN', KEYS[3]) == tonumber(ARGV[6]) then
  redis.call('RENAME', KEYS[3], KEYS[2])
  redis.call('EXPIRE', KEYS[2], ARGV[3])
else
  return -1
end
redis.call('HSET', KEYS[1], 'attempt', ARGV[2], 'finished_by', me, 'finished_at', math.floor(clock()))
redis.call('HDEL', KEYS[1], 'owner', 'slot', 'nonce', 'cancel')
redis.call('DEL', KEYS[4])
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 1
