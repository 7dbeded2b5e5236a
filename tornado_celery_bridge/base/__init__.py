"""
What every room stands on, and what knows none of them: each module is a subject of its own.

    app, settings          the Celery app and the environment's variables, read in one way by every process
    json, lua, redis       JSON of anything, Redis commands in Lua files, Redis clients from Celery's settings
    valkey                 the program of a Redis-compatible server, if there is one
    store                  large inputs and results, kept out of messages and out of Redis
    subscriber             any number of Redis pub/sub channels over one connection
    lane, repeating        threads: one that makes an event loop's blocking calls, one that repeats a step
    forks                  what a forked child must not touch
    heartbeat, logs, tracing  what a process shows of itself

What comes in: Celery's app and its settings. Who may call it: every room; it imports none of them.
"""
