#!/bin/sh
# Build a Python 2.7 environment with Autobahn|Testsuite:  install.sh PYTHON2.7 PYTHON3 FOLDER
set -eu
pins=$(cd "$(dirname "$0")" && pwd)/requirements-py27.txt
py27=$1 py3=$2 folder=$3

export PIP_NO_PYTHON_VERSION_WARNING=1 PIP_DISABLE_PIP_VERSION_CHECK=1
mkdir -p "$folder"
"$py3" -m venv "$folder/tools"
"$folder/tools/bin/pip" install -q 'virtualenv<20.22' # the last line that can make 2.7 environments
"$folder/tools/bin/virtualenv" -q -p "$py27" "$folder/py27"
# incremental has to be there before Twisted's setup.py runs (setup_requires)
"$folder/py27/bin/pip" install -q --no-deps "$(grep '^incremental' "$pins")"
"$folder/py27/bin/pip" install -q --no-deps --no-build-isolation -r "$pins"
touch "$folder/installed"
