# Sourced with `URL DIRECTORY`: installs Claude Code in DIRECTORY unless it is there, and makes it a client of URL, in a
# home and a project of its own. `$claude` is its program; the working directory is the project.
url="$1" directory="$2"
version=2.1.197
mkdir -p "$directory/project" "$directory/home"
directory="$(cd "$directory" && pwd)"
claude="$directory/node_modules/@anthropic-ai/claude-code-linux-x64/claude"
[[ "$("$claude" --version 2>/dev/null)" == "$version"* ]] ||
  npm install --prefix "$directory" --no-audit --no-fund --loglevel=error "@anthropic-ai/claude-code@$version" >&2
cd "$directory/project"
export HOME="$directory/home" ANTHROPIC_BASE_URL="$url" ANTHROPIC_API_KEY=sk-0123456789abcdef ANTHROPIC_MODEL=kimi_k2
export ANTHROPIC_DEFAULT_HAIKU_MODEL=kimi_k2 CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1
rm -rf "$HOME/.claude/projects"
