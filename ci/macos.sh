#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every check on macOS: bash ci/macos.sh fuse-t|macfuse.  Called by the workflow; also by hand, on a Mac with
# Homebrew.  It installs what it is called with, for good.
#
#   fuse-t   real mounts through FUSE-T, which needs no kernel extension
#   macfuse  layouts and functions of macFUSE's own library; no mount: a hosted runner cannot allow its
#            kernel extension (actions/runner-images#4731)
#
# PYTHON=... uses another Python than python3.

set -euo pipefail
cd "$(dirname "$0")/.."
library=${1:?fuse-t or macfuse}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export HOMEBREW_NO_AUTO_UPDATE=1 PYTHONUNBUFFERED=1 XLOOP_REQUIRE_FUSE=1
case $library in
    fuse-t)
        sudo mkdir -p /usr/local/include # the package copies into it, and does not make it
        brew install --cask macos-fuse-t/cask/fuse-t
        export XLOOP_TEST_BACKEND=fuse-t XLOOP_REQUIRE_MOUNT=1
        ;;
    macfuse) brew install --cask macfuse ;;
    *) echo "what is $library?" >&2; exit 2 ;;
esac

# What is tested is the wheel, and the wheel that was built from the sdist.
"$python" -m venv "$work/venv"
bin=$work/venv/bin
"$bin/pip" install --quiet build
"$bin/python" -m build --outdir "$work/dist" .
"$bin/pip" install --quiet "$(echo "$work"/dist/*.whl)[test]"

# --confcutdir: tests/conftest.py reads /proc, and is for Linux.
run() {
    directory=$1
    [ -d "$directory" ] || directory=${directory%/*}
    "$bin/pytest" -p no:cacheprovider --color=no --confcutdir="$directory" "$1"
}

"$bin/xloop" doctor || [ "$library" = macfuse ]
for part in doctor options registry pathview op_table; do
    run "tests/unit/test_$part.py"
done
run tests/macos
run tests/portable/test_host.py
[ "$library" = macfuse ] || run tests/portable/test_mount.py
