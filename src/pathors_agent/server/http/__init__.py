"""Requests and answers as bytes: bodies, keys, problems, the OpenAPI document."""
