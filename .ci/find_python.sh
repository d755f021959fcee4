#!/bin/sh
# Print the first interpreter that can create the project's environment, or say why there is none.
# Usage: find_python.sh [INTERPRETER]   (an interpreter that is named is the only one tried)
check='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
if [ -n "$1" ]; then
    candidates=$1
else
    # 3.13 last: openmmtorch's wheel for it wants CUDA 13, and does not load beside torch 2.9.1.
    candidates="python3.12 python3.11 python3 python3.13 python"
fi
for candidate in $candidates; do
    if "$candidate" -c "$check" >/dev/null 2>&1; then
        command -v "$candidate"
        exit 0
    fi
done
{
    echo "mace_mm needs Python 3.11, 3.12 or 3.13 with the venv module (Debian: python3-venv)."
    for candidate in $candidates; do
        version=$("$candidate" --version 2>/dev/null) || version="not found"
        echo "  tried $candidate: $version"
    done
    echo "Name one with: make PYTHON=/path/to/python3.12 ..."
} >&2
exit 1
