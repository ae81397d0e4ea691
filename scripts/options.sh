# Sourced by the scripts of this folder. As the first argument, `--help` prints the help of the Python module `module`, or,
# without one or before .venv is installed, the comment at the script's top; `--version` prints the project's version.
case "${1-}" in
  -h | --help)
    cd "$(dirname "$0")/.."
    if [[ -n "${module-}" && -x .venv/bin/python ]]; then exec .venv/bin/python -m "$module" --help; fi
    echo "usage: scripts/$(basename "$0") ${usage-}"
    echo
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "scripts/$(basename "$0")"
    exit 0
    ;;
  --version)
    sed -n 's/^__version__ = "\(.*\)"$/kimi-k2-triton \1/p' "$(dirname "$0")/../backend/kimi_k2_serving/__init__.py"
    exit 0
    ;;
esac
