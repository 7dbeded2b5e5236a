"""
The event loop's side: sends tasks, awaits their results, and never blocks the loop.

What comes in: signatures, tasks and results, from a Tornado handler or any coroutine. What goes out: messages by
`transports`, jobs by `ledger`, and values to whoever awaits them. Who may call it: an application, by the public
:class:`~tornado_celery_bridge.Bridge`, and the service. :mod:`.bridge` is the facade and names the other modules.
"""
