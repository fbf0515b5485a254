"""Load, store and trim histories. Pure."""
