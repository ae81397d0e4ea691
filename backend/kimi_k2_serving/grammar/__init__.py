"""Compiles declared tools and formats to a token-level structural tag, which makes any other answer impossible."""
