"""The wire format in both directions: events, chunks, answers and requests. Pure."""
