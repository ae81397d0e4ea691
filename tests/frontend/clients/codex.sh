#!/usr/bin/env bash
# A two-step loop of Codex CLI, headless, from npm (Node 20 or later):
#
#   codex.sh URL DIRECTORY
#
# URL is a frontend over tests.frontend.scripted; DIRECTORY takes the installation, the agent's home and its project. The
# shell's output has to come back in the answer to its result, or the exit code is 1.
set -euo pipefail
url="$1" directory="$2"
version=0.169.0
mkdir -p "$directory/project" "$directory/home"
directory="$(cd "$directory" && pwd)"
codex="$directory/node_modules/.bin/codex"
[[ "$("$codex" --version 2>/dev/null)" == "codex-cli $version" ]] ||
  npm install --prefix "$directory" --no-audit --no-fund --loglevel=error "@openai/codex@$version" >&2
cat > "$directory/home/config.toml" <<TOML
model = "kimi_k2"
model_provider = "k2"
[model_providers.k2]
name = "k2"
base_url = "$url/v1"
wire_api = "responses"
env_key = "K2_KEY"
TOML
cd "$directory/project"
answer="$(CODEX_HOME="$directory/home" HOME="$directory/home" K2_KEY=sk-0123456789abcdef timeout 300 "$codex" exec \
  --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox \
  'call exec_command {"cmd":"echo from-the-shell"}' < /dev/null 2> "$directory/log")" || { cat "$directory/log"; exit 1; }
echo "$answer"
grep -q "Return of functions.exec_command:0" <<< "$answer"
grep -q from-the-shell <<< "$answer"
