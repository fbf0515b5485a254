"""Run the app: its open parts, its connections, its processes."""
