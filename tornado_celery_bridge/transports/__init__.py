"""kombu transports of our own, for any Celery app; each is a module, named after its broker."""
