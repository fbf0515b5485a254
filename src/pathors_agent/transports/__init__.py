"""Carry requests to models: over HTTP, around one another, into this process."""
