"""`kimi-k2 verify`: checks whether an OpenAI-compatible K2 endpoint keeps the promises of K2."""
