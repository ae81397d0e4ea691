"""The `kimi-k2` command."""
