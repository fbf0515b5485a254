"""Event loops, cancellation and lifetimes, the same on asyncio, on trio and in threads."""
