"""A turn of a session: from a request to the answer that is stored and sent."""
