"""Private message brokers, to try and to test with: each a process of this user's, on loopback, in a folder."""
