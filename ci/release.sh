#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What is published, and the checks of it: bash ci/release.sh [TAG].  Leaves sdist and wheel in dist/.
#
# The wheel is built from the sdist, holds all and only the packages, and every bundled backend can be
# imported from it in an environment that has nothing else.  PYTHON=... uses another Python than python3.

set -euo pipefail
unset PYTHONPATH # nothing but what is installed
cd "$(dirname "$0")/.."
tag=${1:-}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet build twine check-wheel-contents
rm -rf dist
"$work/tools/bin/python" -m build --outdir dist .
"$work/tools/bin/twine" check --strict dist/*
"$work/tools/bin/check-wheel-contents" dist/*.whl
"$python" ci/check_wheel.py dist/*.whl

"$python" -m venv "$work/clean"
"$work/clean/bin/pip" install --quiet dist/*.whl
"$work/clean/bin/python" -I ci/import_backends.py
version=$("$work/clean/bin/xloop" --version)
echo "$version"
if [ -n "$tag" ] && [ "xloop ${tag#v}" != "$version" ]; then
    echo "the tag $tag and the package do not agree" >&2
    exit 1
fi
