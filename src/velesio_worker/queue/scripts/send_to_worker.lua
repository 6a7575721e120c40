-- Move the job in a slot to the list of one worker, if that worker lives by Redis's own clock. Safe to repeat.
--
-- KEYS[1]  {llama_queue}:active:<w>:<n>   list: the slot
-- KEYS[2]  {llama_queue}:only:<w>         list: the jobs that name the worker
-- KEYS[3]  {llama_queue}:workers          sorted set: worker -> end of its lease, in seconds
-- KEYS[4]  {llama_queue}:worker:<w>       hash: what the worker is and does, with the lease's life
-- ARGV[1]  worker id
--
-- Returns 1: moved, or moved before; 0: the worker does not live, and nothing was done.
if redis.call('LLEN', KEYS[1]) == 0 then
  return 1
end
if not lives(KEYS[3], KEYS[4], ARGV[1]) then
  return 0
end
redis.call('LMOVE', KEYS[1], KEYS[2], 'RIGHT', 'LEFT')
return 1
