"""OpenAI's dialect: chat, completions, responses and models, and the routes that tokenize and detokenize."""
