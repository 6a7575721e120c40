-- Have jobs that were kept for a worker for long enough wait for whoever comes. Safe to repeat.
--
-- KEYS[1]  {llama_queue}:kept:<kind>   sorted set: worker -> until when a job is kept for it; beside it lie all of kept.lua's
-- ARGV[1]  what all the queue's keys begin with, {llama_queue}:
-- ARGV[2]  kind
-- ARGV[3]  the worker that they were kept for
--
-- Returns how many there were.
local sound, gone = pcall(queue_of(ARGV[1], ARGV[2]).let_go, ARGV[3])
return sound and gone or 0  -- where somebody else uses a name, whoever takes jobs says so
