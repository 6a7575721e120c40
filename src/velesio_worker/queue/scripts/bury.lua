-- Move the job in a slot to the dead letters. Safe to repeat: an empty slot buries nothing.
--
-- KEYS[1]  {llama_queue}:active:<w>:<n>   list: the slot
-- KEYS[2]  {llama_queue}:dead             list: the dead letters, newest first
-- ARGV[1]  the dead letter, JSON
-- ARGV[2]  how many dead letters are kept
--
-- Returns 1: buried; 0: the slot was empty.
if not redis.call('RPOP', KEYS[1]) then
  return 0
end
redis.call('LPUSH', KEYS[2], ARGV[1])
redis.call('LTRIM', KEYS[2], 0, tonumber(ARGV[2]) - 1)
return 1
