"""Run the app: what is open, connections, processes."""
