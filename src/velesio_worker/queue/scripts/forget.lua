-- Delete a job's result, if it still is the one that the caller has read. Safe to repeat.
--
-- KEYS[1]  result:<id>   string: the job's result
-- ARGV[1]  the result as it was read
--
-- Returns 1: deleted; 0: another result is there, or none.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
return 1
