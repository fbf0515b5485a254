"""Agents: the loop, its drivers, and what a run returns."""
