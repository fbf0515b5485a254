"""The client of endpoints that keep sessions: the session API."""
