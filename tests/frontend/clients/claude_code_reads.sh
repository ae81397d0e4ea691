#!/usr/bin/env bash
# Claude Code, headless, from npm (Node 20 or later), on the real server: it reads files because the model chooses to.
#
#   claude_code_reads.sh URL DIRECTORY
#
# URL is a frontend over the trained demo model; DIRECTORY takes the installation, the agent's home and its project. Its own
# prompt is replaced by a short one and Read is its only tool, so that a request has some 700 tokens of the demo's vocabulary.
# What the files say is drawn anew in each run: the model has to copy the path into the call and the text into the answer.
set -euo pipefail
. "$(dirname "$0")/claude_code_installed.sh"
words=(copper lantern willow harbour pepper marble thunder velvet basket ribbon)
failed=0
for file in notes.txt report.md todo.txt; do
  word="${words[RANDOM % ${#words[@]}]}" number=$((RANDOM % 900 + 100))
  echo "the $word has number $number" > "$file"
  events="$(timeout 300 "$claude" -p --bare --output-format stream-json --verbose --tools Read --allowedTools Read \
    --system-prompt "You are a coding agent. Use the tools to answer. Answer briefly." \
    -- "Read $PWD/$file and tell me what it says." < /dev/null)" || { echo "$events"; exit 1; }
  # The events hold the call that the model chose, what Read returned, and the answer after it.
  WORD="$word" NUMBER="$number" FILE="$PWD/$file" python3 -c '
import json, os, sys
events = [json.loads(line) for line in sys.stdin if line.startswith("{")]
blocks = [block for event in events if event["type"] == "assistant" for block in event["message"]["content"]]
calls = [(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
answer = next(event.get("result", "") for event in events if event["type"] == "result")
print(calls, repr(answer))
read = ("Read", os.environ["FILE"]) in [(name, given.get("file_path")) for name, given in calls]
sys.exit(not (read and os.environ["WORD"] in answer and os.environ["NUMBER"] in answer))' <<< "$events" || failed=1
done
exit "$failed"
