"""Histories at rest and on their way: stored and loaded, chosen and shortened. Pure."""
