-- Whether somebody has asked that a job be stopped, and it has not ended. Safe to repeat.
--
-- KEYS[1]  {result:<id>}:job      hash: the job's state, and the flag of release 0.1.0
-- KEYS[2]  result:<id>            string: the job's result
-- KEYS[3]  {result:<id>}:cancel   anything: the flag
-- ARGV[1]  life of the hash, in seconds, if it has none yet
--
-- Returns 1: the job is to be stopped; 0: it has ended, and no flag is left, or nobody asked.
--
-- Once a result has expired, whoever asks means the next job of that id: its life begins here, so that the claim can
-- tell this flag from one that came while the result was there, and that the claim drops.
local state = redis.call('TYPE', KEYS[1]).ok
local flag = redis.call('EXISTS', KEYS[3]) == 1
if state ~= 'hash' and state ~= 'none' then
  return (flag and redis.call('EXISTS', KEYS[2]) == 0) and 1 or redis.call('HGET', KEYS[1], 'cancel')
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HDEL', KEYS[1], 'cancel')
  redis.call('DEL', KEYS[3])
  return 0
end
if not flag and redis.call('HGET', KEYS[1], 'cancel') ~= '1' then
  return 0
end
if redis.call('HEXISTS', KEYS[1], 'finished_by') == 1 then
  redis.call('HSET', KEYS[1], 'base', count(redis.call('HGET', KEYS[1], 'attempt'), 0) or 0, 'returned', 0)
  redis.call('HDEL', KEYS[1], 'finished_by', 'finished_at')
end
if redis.call('TTL', KEYS[1]) < 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
end
return 1
