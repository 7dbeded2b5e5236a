-- What wrk posts to Flower's API.
wrk.method = "POST"
wrk.body = '{"args": [2, 2]}'
wrk.headers["Content-Type"] = "application/json"
