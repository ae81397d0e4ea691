"""From declared tools and formats to a token-level structural tag that makes any other answer impossible."""
