"""OpenAI's dialect: chat, completions, responses, models and the text tools beside them."""
