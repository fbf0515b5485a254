"""Event loops, cancellation and lifetimes on asyncio, on trio and in threads."""
