#!/usr/bin/env bash
# Claude Code, headless, from npm (Node 20 or later): it reads a text file, an image and a PDF, and goes on:
#
#   claude_code.sh URL DIRECTORY
#
# URL is a frontend over tests.frontend.scripted; DIRECTORY takes the installation, the agent's home and its project. Each
# result has to come back in the answer to it, as text or as the sentence for what the model can't read.
set -euo pipefail
. "$(dirname "$0")/claude_code_installed.sh"
echo "text of the file" > a.txt
base64 -d > a.png <<< iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==
cat > a.pdf <<'PDF'
%PDF-1.4
1 0 obj
<< /Type /Catalog /Pages 2 0 R >>
endobj
2 0 obj
<< /Type /Pages /Kids [3 0 R] /Count 1 >>
endobj
3 0 obj
<< /Type /Page /Parent 2 0 R /MediaBox [0 0 72 72] >>
endobj
trailer << /Size 4 /Root 1 0 R >>
%%EOF
PDF
ask() { # EXPECTED WORDS...: one turn, whose answer has to hold EXPECTED
  local expected="$1" answer
  shift
  answer="$(timeout 300 "$claude" -p --bare --tools Read --allowedTools Read "$@" < /dev/null)" || { echo "$answer"; exit 1; }
  echo "$answer"
  grep -qF "$expected" <<< "$answer"
}
# The first turn has the agent's own reminder before it, which the scripted engine answers with itself.
ask "echo:" -- "hello"
ask "text of the file" -c -- "call Read {\"file_path\":\"$PWD/a.txt\"}"
ask "[an image was here; this model reads text only]" -c -- "call Read {\"file_path\":\"$PWD/a.png\"}"
ask "[a document was here; this model reads text only]" -c -- "call Read {\"file_path\":\"$PWD/a.pdf\"}"
ask "and another turn" -c -- "say and another turn"
