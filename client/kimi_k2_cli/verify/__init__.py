"""`kimi-k2 verify`: holds any OpenAI-compatible K2 endpoint to what K2 promises."""
