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
local attempt, first = tonumber(ARGV[1]), tonumber(ARGV[2])
local at = -1
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last then
  local its_attempt, sequence = string.match(last[1], '^(%d+)-(%d+)$')
  if tonumber(its_attempt) > attempt then
    return {'fenced', -1}
  end
  if tonumber(its_attempt) == attempt then
    at = count(sequence)
    if not at then
      return {'taken', -1}
    end
  end
elseif first > 0 then
  return {'gone', -1}
end
if at < first - 1 then
  return {'behind', at}
end
if at >= first then
  local known = math.min(at - first + 1, (#ARGV - 3) / 2)
  local there = redis.call('XRANGE', KEYS[1], ARGV[1] .. '-' .. first, ARGV[1] .. '-' .. at, 'COUNT', known)
  for i = 1, known do
    local id, fields = unpack(there[i] or {'', {}})
    local event, data = ARGV[2 + 2 * i], ARGV[3 + 2 * i]
    local ends = event == 'done' or event == 'error'  -- which somebody may have completed in other words
    if id ~= ARGV[1] .. '-' .. (first + i - 1) or fields[2] ~= event or (fields[4] ~= data and not ends) then
      return {'taken', at}
    end
  end
end
for i = 4 + 2 * (at + 1 - first), #ARGV, 2 do
  at = at + 1
  redis.call('XADD', KEYS[1], string.format('%s-%d', ARGV[1], at), 'event', ARGV[i], 'data', ARGV[i + 1])
end
if ARGV[3] ~= '' then
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
return {'written', at}
