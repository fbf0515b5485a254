"""The tools of MCP servers as a registry."""
