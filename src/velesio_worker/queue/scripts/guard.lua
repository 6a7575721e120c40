-- What every script begins with: what stands in a key was written by somebody, so no number of it is used unchecked.

local LONGEST_LEASE = 3600  -- seconds; no worker takes a longer one (LEASE_SECONDS)

-- A whole number from 0 to 2^31 - 1; nil for anything else. What is not there (false, nil) is `missing`.
local function count(value, missing)
  local number = tonumber(value or missing)
  if number and number >= 0 and number < 2 ^ 31 and number == math.floor(number) then
    return number
  end
  return nil
end

-- A moment in seconds, infinite ones too; nil for anything else.
local function moment(value)
  local number = tonumber(value or nil)
  return number and number == number and number or nil
end

-- The time by Redis's own clock, in seconds: to a script it stands still.
local asked_clock
local function clock()
  if not asked_clock then
    local time = redis.call('TIME')
    asked_clock = tonumber(time[1]) + tonumber(time[2]) / 1000000
  end
  return asked_clock
end

-- Whether a sorted set's lease of a worker runs. One further ahead than any that a worker takes was written by somebody
-- else, and so was one whose hash, which a beat gives the lease's life, has none or an endless one.
local function lives(workers, hash, worker)
  local ends, now = moment(redis.call('ZSCORE', workers, worker)), clock()
  if not ends or ends <= now or ends > now + LONGEST_LEASE then
    return false
  end
  local life = redis.call('TTL', hash)
  return life >= 0 and life <= LONGEST_LEASE
end

