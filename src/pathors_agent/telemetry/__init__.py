"""Observers of runs: events, spans, metrics and times, from one dict of facts."""
