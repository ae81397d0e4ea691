#!/usr/bin/env bash
# One tool round trip of a coding agent, headless (opencode, from npm; Node 20 or later):
#
#   opencode.sh URL DIRECTORY [TOKENS]
#
# URL is a frontend; DIRECTORY takes the installation, the agent's home and its project; TOKENS bounds each answer (2000)
# and leaves the agent one tool and a short prompt.
# Over tests.frontend.scripted the shell's output has to come back in the answer, or the exit code is 1. A model of random
# weights calls no tool of its own accord: there it shows that the agent's requests are served and its stream is read.
set -euo pipefail
url="$1" directory="$2" tokens="${3:-2000}"
version=1.18.33
mkdir -p "$directory/project" "$directory/home"
directory="$(cd "$directory" && pwd)"
opencode="$directory/node_modules/.bin/opencode"
[[ "$("$opencode" --version 2>/dev/null)" == "$version" ]] ||
  npm install --prefix "$directory" --no-audit --no-fund --loglevel=error "opencode-ai@$version" >&2
# Its own prompt and ten tools are 10,000 tokens of the demo's vocabulary, a minute of prefill on two busy cores.
lean=""
[[ -z "${3:-}" ]] || lean='"tools": {"*": false, "bash": true}, "agent": {"build": {"prompt": "Be brief."}},'
cat > "$directory/project/opencode.json" <<JSON
{"autoupdate": false, "share": "disabled", "permission": {"bash": "allow"}, $lean
 "provider": {"k2": {"npm": "@ai-sdk/openai-compatible", "name": "k2",
  "options": {"baseURL": "$url/v1", "apiKey": "sk-0123456789abcdef"},
  "models": {"kimi_k2": {"name": "kimi_k2", "tool_call": true, "limit": {"context": 262144, "output": $tokens}}}}}}
JSON
cd "$directory/project"
answer="$(echo 'call bash {"command":"echo from-the-shell","description":"says it"}' |
  HOME="$directory/home" OPENCODE_DISABLE_MODELS_FETCH=1 timeout 300 "$opencode" run -m k2/kimi_k2)"
echo "$answer"
if [[ -n "$lean" ]]; then [[ -n "$answer" ]]; else grep -q from-the-shell <<< "$answer"; fi
