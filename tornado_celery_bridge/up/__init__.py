"""What starts everything on one machine: the supervisor behind ``tcb up``, the embedded server, and private brokers."""
