-- Small requests for wrk, from a pool of as many as its argument says, one after the other.

local words = { "users", "orders", "carts", "items", "search", "posts", "tags", "files" }
local parts = { "detail", "history", "settings", "summary" }
local pool, at = {}, 0

function init(arguments)
    math.randomseed(1)
    local hex = function(digits)
        local text = {}
        for i = 1, digits do
            text[i] = string.format("%x", math.random(0, 15))
        end
        return table.concat(text)
    end
    for i = 1, tonumber(arguments[1]) do
        local word, part = words[i % #words + 1], parts[math.floor(i / #words) % #parts + 1]
        local path = string.format("/%s/%d/%s?page=%d&sort=%s", word, math.random(10000, 99999), part, i, hex(4))
        pool[i] = wrk.format("GET", path, {
            ["Host"] = wrk.headers["Host"],
            ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64)",
            ["Accept"] = "*/*",
            ["Cookie"] = "session=" .. hex(32),
        })
    end
end

function request()
    at = at % #pool + 1
    return pool[at]
end
