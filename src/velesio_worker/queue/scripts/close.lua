-- End a job in one step: its result, the entries that are not in its stream yet, the last one among them, and its slot.
-- All or nothing; safe to repeat. Its keys lie in different hash slots: not for a Cluster.
--
-- KEYS[1]  {result:<id>}:job   hash: the job's state
-- KEYS[2]  result:<id>         string: the job's result
-- KEYS[3]  {result:<id>}:cancel   anything: somebody wanted the job to be stopped
-- KEYS[4]  {result:<id>}:parts:<attempt>  string: a large result, as far as it was sent: it came to nothing
-- KEYS[5]  stream:<id>         stream: everything that happened to the job
-- KEYS[6]  {llama_queue}:active:<w>:<n>   list: the slot
-- ARGV[1]  worker id
-- ARGV[2]  attempt
-- ARGV[3]  life of the result, in seconds
-- ARGV[4]  the result, JSON
-- ARGV[5]  life of the hash, in seconds
-- ARGV[6]  sequence of the first entry
-- ARGV[7]  life of the stream from now on, in seconds
-- ARGV[8]  what all the queue's keys begin with, {llama_queue}:, if the job was begun as fair.lua has it, else empty
-- ARGV[9]  kind
-- ARGV[10] <w>:<n>
-- ARGV[11] what the job did cost; empty if that is as it was estimated
-- ARGV[12] '1' if the engine holds what its session begins with, '0' if it turned out not to, else empty; behind a
--          colon the session, if that is not known here
-- ARGV[13…] event and data of each entry
--
-- Returns 1: it has ended; 2: it has, but a second job lies in the slot (see ack.lua), which was left; 0: nothing was
-- done, since finish.lua or publish.lua would not do its part, and says why.
local whose = standing(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
if whose == 'fenced' then
  return 0
end
local first = tonumber(ARGV[6])
local status, at = followed(KEYS[5], ARGV[2], first, 13)
if status ~= 'written' then
  return 0
end
local inside = redis.call('LLEN', KEYS[6])
followed_up(KEYS[5], ARGV[2], first, 13, at)  -- before all else: it fails where others wrote greater ids and deleted them
redis.call('EXPIRE', KEYS[5], ARGV[7])
if whose == 'owned' then
  redis.call('SETEX', KEYS[2], ARGV[3], ARGV[4])
  ended(KEYS[1], KEYS[3], KEYS[4], ARGV[1], ARGV[2], ARGV[5])
end
if ARGV[8] ~= '' then
  pcall(queue_of(ARGV[8], ARGV[9]).over, ARGV[10], tonumber(ARGV[11] or nil), ARGV[12])
end
if inside > 1 then
  return 2
end
redis.call('DEL', KEYS[6])
return 1
