-- rows: the arguments that come after the named ones, in rows of equal width.

-- Iterate over the rows, from the argument number *first* on, of *width* arguments each.
local function rows(first, width)
  local place = first - width
  return function()
    place = place + width
    if place <= #ARGV then return unpack(ARGV, place, place + width - 1) end
  end
end
