#!/bin/sh
# SPDX-License-Identifier: MIT
# Every check on FreeBSD, as root: sh ci/freebsd.sh.  Called by the workflow in a virtual machine; it loads a
# kernel module and installs packages.  PYTHON=... uses another Python than python3.11.

set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || pkg install -y python311 py311-pip
[ -e /usr/local/lib/libfuse.so.2 ] || pkg install -y fusefs-libs
kldstat -qm fusefs || kldload fusefs
sysctl vfs.usermount=1
work=$(mktemp -d /var/tmp/xloop-ci.XXXXXX)
trap 'rm -rf "$work"' EXIT

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

"$bin/xloop" doctor
for part in doctor options registry pathview op_table; do
    run "tests/unit/test_$part.py"
done
run tests/portable/test_host.py
XLOOP_TEST_BACKEND=libfuse2 XLOOP_REQUIRE_MOUNT=1 run tests/portable/test_mount.py
