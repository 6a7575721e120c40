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
-- Returns 1: stored; 0: fenced (outcome.lua); -1: KEYS[3] is not whole, a failover lost some of it.
local whose = standing(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
if whose == 'stored' then
  return 1
end
if whose == 'fenced' then
  redis.call('DEL', KEYS[3])
  return 0
end
if ARGV[6] == '0' then
  redis.call('SETEX', KEYS[2], ARGV[3], ARGV[4])
elseif redis.call('STRLEN', KEYS[3]) == tonumber(ARGV[6]) then
  redis.call('RENAME', KEYS[3], KEYS[2])
  redis.call('EXPIRE', KEYS[2], ARGV[3])
else
  return -1
end
ended(KEYS[1], KEYS[4], KEYS[3], ARGV[1], ARGV[2], ARGV[5])
return 1
