"""The state machine: conversations, runs and limits. No I/O, no clock."""
