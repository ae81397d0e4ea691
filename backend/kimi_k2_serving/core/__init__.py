"""The pure part: messages, prompt, tokens, tool calls, events, errors, limits. Standard library and tiktoken only."""
