#!/usr/bin/env bash
# One tool round-trip of a coding agent, headless: `opencode.sh URL DIRECTORY`. URL is the frontend over
# tests.frontend.scripted; DIRECTORY has node_modules of `npm install opencode-ai` and takes everything it writes.
set -euo pipefail
url="$1" directory="$2"
mkdir -p "$directory/project" "$directory/home"
cat > "$directory/project/opencode.json" <<JSON
{"autoupdate": false, "share": "disabled", "permission": {"bash": "allow"},
 "provider": {"k2": {"npm": "@ai-sdk/openai-compatible", "name": "k2",
  "options": {"baseURL": "$url/v1", "apiKey": "sk-0123456789abcdef"},
  "models": {"kimi_k2": {"name": "kimi_k2", "tool_call": true, "limit": {"context": 262144, "output": 2000}}}}}}
JSON
cd "$directory/project"
answer="$(echo 'call bash {"command":"echo from-the-shell","description":"says it"}' |
  HOME="$directory/home" OPENCODE_DISABLE_MODELS_FETCH=1 timeout 120 "$directory/node_modules/.bin/opencode" run -m k2/kimi_k2)"
echo "$answer"
grep -q from-the-shell <<< "$answer"
