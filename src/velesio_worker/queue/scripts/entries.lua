-- What publish.lua and close.lua have in common: how entries follow upon those of a stream.

-- Whether entries may follow, as publish.lua says it, and the sequence of the last one of this attempt, -1 for none.
-- ARGV[from…] are event and data of each, `first` the sequence of the first one. Changes nothing.
local function followed(stream, attempt, first, from)
  local at = -1
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  if last then
    local its_attempt, sequence = string.match(last[1], '^(%d+)-(%d+)$')
    if tonumber(its_attempt) > tonumber(attempt) then
      return 'fenced', -1
    end
    if tonumber(its_attempt) == tonumber(attempt) then
      at = count(sequence)
      if not at then
        return 'taken', -1
      end
    end
  elseif first > 0 then
    return 'gone', -1
  end
  if at < first - 1 then
    return 'behind', at
  end
  if at >= first then
    local known = math.min(at - first + 1, (#ARGV - from + 1) / 2)
    local there = redis.call('XRANGE', stream, attempt .. '-' .. first, attempt .. '-' .. at, 'COUNT', known)
    for i = 1, known do
      local id, fields = unpack(there[i] or {'', {}})
      local event, data = ARGV[from + 2 * i - 2], ARGV[from + 2 * i - 1]
      local ends = event == 'done' or event == 'error'  -- which somebody may have completed in other words
      if id ~= attempt .. '-' .. (first + i - 1) or fields[2] ~= event or (fields[4] ~= data and not ends) then
        return 'taken', at
      end
    end
  end
  return 'written', at
end

-- Add those of the entries that are not there yet, `at` being the sequence of the last one; returns that of the new one.
local function followed_up(stream, attempt, first, from, at)
  for i = from + 2 * (at + 1 - first), #ARGV, 2 do
    at = at + 1
    redis.call('XADD', stream, string.format('%s-%d', attempt, at), 'event', ARGV[i], 'data', ARGV[i + 1])
  end
  return at
end
