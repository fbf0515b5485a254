"""Tools: what they are, what they take, what a model reads of what they return. Pure."""
