"""The wire format, both ways: bytes to messages, messages to bytes. Pure."""
