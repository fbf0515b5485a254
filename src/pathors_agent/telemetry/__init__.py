"""What is told of runs: events, spans and metrics, from one list of facts."""
