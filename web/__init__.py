"""
The sample's Tornado application: handlers of its own that use the bridge, and the service mounted beside them.

Start it with ``python -m web``. Everything here uses public names alone, as an application of your own does.
"""
