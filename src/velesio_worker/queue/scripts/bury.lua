-- Move the job in a slot to the dead letters. Safe to repeat: an empty slot buries nothing.
--
-- KEYS[1]  {llama_queue}:active:<w>:<n>   list: the slot
-- KEYS[2]  {llama_queue}:dead             list: the dead letters, newest first
-- KEYS[3]  {llama_queue}:dead:bytes       string: how many bytes KEYS[2] has, or more: letters are removed uncounted
-- ARGV[1]  the dead letter, JSON
-- ARGV[2]  how many dead letters are kept
-- ARGV[3]  the job, or '' if it is the only one in the slot
-- ARGV[4]  how many bytes they may have
-- ARGV[5]  life of KEYS[2] from now on, in seconds
-- ARGV[6]  what all the queue's keys begin with, {llama_queue}:, if the job was begun as fair.lua has it, else empty
-- ARGV[7]  kind
-- ARGV[8]  <w>:<n>
-- ARGV[9]  what the job did cost; empty if that is as it was estimated
-- ARGV[10] '1' if the engine holds what its session begins with, '0' if it turned out not to, else empty; behind a
--          colon the session, if that is not known here
--
-- Returns 1: buried, or the slot was empty; 0: nothing was done, since a second job lies in the slot (see ack.lua)
-- and ARGV[3] does not say which of them is meant.
local inside = redis.call('LLEN', KEYS[1])
if inside > 1 and ARGV[3] == '' then
  return 0
end
local removed
if ARGV[3] == '' then
  removed = redis.call('DEL', KEYS[1])
else
  removed = redis.call('LREM', KEYS[1], -1, ARGV[3])
end
if ARGV[6] ~= '' then
  pcall(queue_of(ARGV[6], ARGV[7]).over, ARGV[8], tonumber(ARGV[9] or nil), ARGV[10])
end
if removed > 0 then
  redis.call('LPUSH', KEYS[2], ARGV[1])
  redis.call('LTRIM', KEYS[2], 0, tonumber(ARGV[2]) - 1)
  redis.call('EXPIRE', KEYS[2], ARGV[5])
  local most = tonumber(ARGV[4])
  local bytes = redis.pcall('INCRBY', KEYS[3], #ARGV[1])
  if not count(bytes) or bytes < #ARGV[1] or bytes > most then
    bytes = #ARGV[1]
    local kept = 1
    for _ = 2, redis.call('LLEN', KEYS[2]) do
      local size = #redis.call('LINDEX', KEYS[2], kept)
      if bytes + size > most * 3 / 4 then  -- with room for some, so that not each one has them counted
        break
      end
      bytes, kept = bytes + size, kept + 1
    end
    redis.call('LTRIM', KEYS[2], 0, kept - 1)
    redis.call('SET', KEYS[3], bytes)
  end
  redis.call('EXPIRE', KEYS[3], ARGV[5])
end
return 1
