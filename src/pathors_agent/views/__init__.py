"""Conversations and runs as people read them: transcripts and timelines."""
