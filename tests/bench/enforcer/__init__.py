"""The enforcer on the real server: what it holds, and what it costs."""
