-- Empty a slot whose job is over. Safe to repeat.
--
-- KEYS[1]  {llama_queue}:active:<w>:<n>   list: the slot
--
-- Returns 0: the slot is empty now; 1: nothing was done, since a second job lies in it (Redis carried out a move
-- long after its caller had given up on it), and only the job that is over may go.
if redis.call('LLEN', KEYS[1]) > 1 then
  return 1
end
redis.call('DEL', KEYS[1])
return 0
