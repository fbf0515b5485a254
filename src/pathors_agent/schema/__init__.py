"""Compile JSON Schemas within bounds, and validate the arguments that they describe. Pure."""
