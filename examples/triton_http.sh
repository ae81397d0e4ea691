#!/usr/bin/env bash
# The ensemble over Triton's HTTP with curl: whole, then streamed. `generate` takes no objects, so `messages` and `tools`
# are JSON inside a string. Outputs of one element come as plain values. `infer` refuses decoupled models.
#   examples/triton_http.sh [URL]
set -euo pipefail
url="${1:-http://127.0.0.1:8000}/v2/models/kimi_k2"
curl -sf "$url/generate" -d '{"text_input": "Hello", "max_tokens": 16}'
printf '\n'
curl -sfN "$url/generate_stream" -d '{
  "messages": "[{\"role\": \"user\", \"content\": \"What is the weather in Lisbon?\"}]",
  "tools": "[{\"type\": \"function\", \"function\": {\"name\": \"get_weather\", \"parameters\": {\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"}}, \"required\": [\"city\"]}}}]",
  "tool_choice": "required", "max_tokens": 400, "stream": true}'
