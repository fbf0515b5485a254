"""JSON Schemas and the arguments that should fit them: safe, bounded, errors in words. Pure."""
