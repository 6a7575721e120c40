-- Whether a worker's lease runs, by Redis's own clock.
--
-- KEYS[1]  {llama_queue}:workers      sorted set: worker -> end of its lease, in seconds
-- KEYS[2]  {llama_queue}:worker:<w>   hash: what the worker is and does, with the lease's life
-- ARGV[1]  worker id
--
-- Returns 1 or 0.
return lives(KEYS[1], KEYS[2], ARGV[1]) and 1 or 0
