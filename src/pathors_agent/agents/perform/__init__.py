"""Perform the tool calls of an answer: in tasks, threads and processes."""
