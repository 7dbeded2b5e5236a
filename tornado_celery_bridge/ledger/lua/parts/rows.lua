-- rows: the list that follows the arguments.

-- Iterate over the rows. The loader adds the two numbers to a command that has ROWS.
local function rows()
  local place = FIRST_ROW - ROW_WIDTH
  return function()
    place = place + ROW_WIDTH
    if place <= #ARGV then return unpack(ARGV, place, place + ROW_WIDTH - 1) end
  end
end
