-- POST with a body of BODY_BYTES bytes, a JSON string.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '"' .. string.rep("x", tonumber(os.getenv("BODY_BYTES")) - 2) .. '"'
