"""The client of the session API."""
