--- Points in time: Unix seconds here, ISO 8601 or HTTP dates on the wire.
local floor = math.floor

local M = {}

--- Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
local function days_from_civil(year, month, day)
  if month <= 2 then year = year - 1 end
  local era = floor(year / 400)
  local year_of_era = year - era * 400
  local day_of_year = floor((153 * (month + (month > 2 and -3 or 9)) + 2) / 5) + day - 1
  local day_of_era = year_of_era * 365 + floor(year_of_era / 4) - floor(year_of_era / 100) + day_of_year
  return era * 146097 + day_of_era - 719468
end

local function seconds(year, month, day, hour, minute, second)
  return days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
end

local function in_range(month, day, hour, minute, second)
  return month >= 1 and month <= 12 and day >= 1 and day <= 31 and hour <= 24 and minute <= 59 and second <= 60
end

local function whole(text)
  return floor(tonumber(text))
end

--- Reads an ISO 8601 time (`2026-06-15T08:00:00.25+02:00`); one without a zone is UTC.
-- @tparam string text
-- @treturn[1] number Unix seconds, an integer where there is no fraction
-- @treturn[2] nil if the text is no such time
function M.parse_iso(text)
  local year, month, day, hour, minute, second, rest =
    text:match("^(%d%d%d%d)%-(%d%d)%-(%d%d)[Tt ](%d%d):(%d%d):(%d%d)(.*)$")
  if not year then return nil end
  year, month, day = whole(year), whole(month), whole(day)
  hour, minute, second = whole(hour), whole(minute), whole(second)
  if not in_range(month, day, hour, minute, second) then return nil end
  local result = seconds(year, month, day, hour, minute, second)

  local fraction, zone = rest:match("^%.(%d+)(.*)$")
  zone = zone or rest
  if zone ~= "" and zone ~= "Z" and zone ~= "z" then
    local sign, zone_hour, zone_minute = zone:match("^([+-])(%d%d):?(%d%d)$")
    if not sign then return nil end
    local offset = whole(zone_hour) * 3600 + whole(zone_minute) * 60
    result = sign == "+" and result - offset or result + offset
  end
  if fraction and fraction:find("[1-9]") then return result + tonumber("0." .. fraction) end
  return result
end

--- Writes a time as ISO 8601 in UTC, with milliseconds.
-- @tparam number time Unix seconds
-- @treturn string as `2026-06-15T06:00:00.250Z`
function M.format_iso(time)
  local milliseconds = floor(time * 1000 + 0.5)
  local whole_seconds = floor(milliseconds / 1000)
  return ("%s.%03dZ"):format(os.date("!%Y-%m-%dT%H:%M:%S", whole_seconds), milliseconds - whole_seconds * 1000)
end

local MONTHS = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11, Dec = 12 }

--- Reads the date of an HTTP header (`Sun, 06 Nov 1994 08:49:37 GMT`).
-- @tparam string text
-- @treturn[1] integer Unix seconds
-- @treturn[2] nil if the text is no such date
function M.parse_http(text)
  local day, name, year, hour, minute, second = text:match("^%a+, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$")
  local month = MONTHS[name]
  if not month then return nil end
  return seconds(whole(year), month, whole(day), whole(hour), whole(minute), whole(second))
end

return M
