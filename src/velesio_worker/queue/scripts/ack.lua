-- Empty a slot whose job is over. Safe to repeat.
--
-- KEYS[1]  {llama_queue}:active:<w>:<n>   list: the slot
-- ARGV[1]  what all the queue's keys begin with, {llama_queue}:, if the job was begun as fair.lua has it, else empty
-- ARGV[2]  kind
-- ARGV[3]  <w>:<n>
-- ARGV[4]  what the job did cost; empty if that is as it was estimated
-- ARGV[5]  '1' if the engine holds what its session begins with, '0' if it turned out not to, else empty; behind a
--          colon the session, if that is not known here
--
-- Returns 0: the slot is empty now; 1: nothing was done, since a second job lies in it (Redis carried out a move
-- long after its caller had given up on it), and only the job that is over may go.
if redis.call('LLEN', KEYS[1]) > 1 then
  return 1
end
redis.call('DEL', KEYS[1])
if ARGV[1] ~= '' then
  pcall(queue_of(ARGV[1], ARGV[2]).over, ARGV[3], tonumber(ARGV[4] or nil), ARGV[5])
end
return 0
