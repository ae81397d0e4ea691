"""OpenAI's and Anthropic's HTTP APIs in front of the engine model. The frontend keeps no state between requests."""
