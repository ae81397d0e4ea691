#!/usr/bin/env bash
# A two-step loop of Cline's CLI, headless, from npm (Node 20 or later):
#
#   cline.sh URL DIRECTORY
#
# URL is a frontend over tests.frontend.scripted; DIRECTORY takes the installation, the agent's home and its project. The
# shell's output has to come back in the answer to its result, or the exit code is 1.
set -euo pipefail
url="$1" directory="$2"
version=3.0.65
mkdir -p "$directory/project" "$directory/home"
directory="$(cd "$directory" && pwd)"
export HOME="$directory/home"
cline="$directory/node_modules/.bin/cline"
[[ "$("$cline" --version 2>/dev/null)" == "$version" ]] ||
  npm install --prefix "$directory" --no-audit --no-fund --loglevel=error "cline@$version" >&2
cd "$directory/project"
timeout 60 "$cline" auth --data-dir "$directory/data" \
  -p openai -k sk-0123456789abcdef -m kimi_k2 -b "$url/v1" < /dev/null >&2
answer="$(timeout 300 "$cline" --data-dir "$directory/data" -P openai -m kimi_k2 \
  'call run_commands {"commands":["echo from-the-shell"]}' < /dev/null 2> "$directory/log")" ||
  { cat "$directory/log"; exit 1; }
echo "$answer"
grep -q "Return of functions.run_commands:0" <<< "$answer"
grep -qF '"result":"from-the-shell' <<< "$answer"
