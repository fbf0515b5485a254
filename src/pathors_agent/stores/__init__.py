"""Where a server keeps sessions, keys and answers."""
