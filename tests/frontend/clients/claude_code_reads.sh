#!/usr/bin/env bash
# Claude Code, headless, from npm (Node 20 or later), on the real server: it reads files because the model chooses to.
#
#   claude_code_reads.sh URL DIRECTORY
#
# URL is a frontend over the trained demo model; DIRECTORY takes the installation, the agent's home and its project. Its own
# prompt is replaced by a short one and Read is its only tool, so that a request has some 700 tokens of the demo's vocabulary.
# The model has to copy the file's name into the call and the file's text into the answer. Every call has to be right. Of
# the four answers, two must have the text: all four had it where this was measured, and another processor's rounding
# changed one word of one of them ("buy guitar" for "buy milk"). docs/demo_model.md says what the model copies.
set -euo pipefail
. "$(dirname "$0")/claude_code_installed.sh"
failed=0 copied=0
while IFS='|' read -r file note; do
  echo "$note" > "$file"
  events="$(timeout 300 "$claude" -p --bare --output-format stream-json --verbose --tools Read --allowedTools Read \
    --system-prompt "You are a coding agent. Use the tools to answer. Answer briefly." --max-turns 4 \
    -- "Read $file and tell me what it says." < /dev/null)" || { echo "$events"; exit 1; }
  # The events hold the call that the model chose, what Read returned, and the answer after it.
  NOTE="$note" FILE="$file" python3 -c '
import json, os, sys
events = [json.loads(line) for line in sys.stdin if line.startswith("{")]
blocks = [block for event in events if event["type"] == "assistant" for block in event["message"]["content"]]
calls = [(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
answer = next(event.get("result", "") for event in events if event["type"] == "result")
print(calls, repr(answer))
if calls != [("Read", {"file_path": os.environ["FILE"]})]:
    sys.exit(1)
sys.exit(0 if os.environ["NOTE"] in answer else 3)' <<< "$events" && copied=$((copied + 1)) || [ $? = 3 ] || failed=1
done << 'END'
notes.txt|call the dentist
todo.txt|buy milk
report.md|send the letter to Anna
plans.txt|water the plants
END
echo "$copied of 4 answers have the file's text"
[ "$failed" = 0 ] && [ "$copied" -ge 2 ]
