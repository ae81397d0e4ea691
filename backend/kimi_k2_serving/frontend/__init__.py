"""OpenAI's and Anthropic's HTTP APIs in front of the engine model. Keeps nothing between two requests."""
