"""Agents over OpenAI-compatible chat completions: conversations, tools, streams."""
