-- Add entries to a job's stream: all of them, in order and without a gap, or none. Safe to repeat: what is there
-- already is passed over.
--
-- KEYS[1]  stream:<id>   stream: everything that happened to the job
-- ARGV[1]  attempt
-- ARGV[2]  sequence of the first entry; 0 begins an attempt and may create the stream
-- ARGV[3]  life of the stream from now on, in seconds; '' leaves it as it is
-- ARGV[4…] event and data of each entry
--
-- Returns {status, sequence of the last entry of this attempt, -1 for none}:
--   written  the entries are in the stream
--   behind   the stream lacks entries before the first one (a failover lost what was acknowledged)
--   fenced   a newer attempt has begun
--   taken    somebody else has begun this very attempt (a failover lost the claim), or wrote entries of its ids, or
--            ids that no worker reaches
--   gone     there is no stream (any more)
local first = tonumber(ARGV[2])
local status, at = followed(KEYS[1], ARGV[1], first, 4)
if status ~= 'written' then
  return {status, at}
end
at = followed_up(KEYS[1], ARGV[1], first, 4, at)
if ARGV[3] ~= '' then
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
return {'written', at}
