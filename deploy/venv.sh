#!/bin/sh
# Make the virtual environment $1 from the lock, with pyproxy in it as an editable install.
set -eu
python=${PYTHON:-python3}
venv=$1
here=$(dirname "$0")

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "pyproxy needs Python 3.11 or newer; $python is $("$python" -V). Set PYTHON=..." >&2
    exit 1
fi
# Debian keeps ensurepip in a package of its own, and `-m venv` says so only by failing.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-venv >/dev/null
    else
        echo "Python's venv module is missing: apt-get install python3-venv" >&2
        exit 1
    fi
fi
"$python" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes \
    -r "$here/requirements-dev.lock"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e "$here/.."
