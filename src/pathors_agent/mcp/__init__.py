"""The tools of MCP servers as registries."""
