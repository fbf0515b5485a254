"""Run the calls of an answer: in tasks, threads and processes, approved and in time."""
