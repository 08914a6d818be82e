#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs xloop from this checkout for the user who calls it: sh install.sh
#
# A plain "pip install ." is refused by the Python of Debian and Ubuntu (PEP 668), so xloop gets a
# virtual environment, ~/.local/lib/xloop, and its command a link in ~/.local/bin, its manual page one in
# ~/.local/share/man.  System packages are installed only if they are missing.  To remove it:
# rm -r ~/.local/lib/xloop ~/.local/bin/xloop ~/.local/share/man/man1/xloop.1

set -eu
top=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
venv=$HOME/.local/lib/xloop
command=$HOME/.local/bin/xloop
page=$HOME/.local/share/man/man1/xloop.1 # where man(1) looks when ~/.local/bin is in the PATH

missing=
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3 python3-venv"
# Root mounts by itself; everybody else needs fusermount3.
[ "$(id -u)" = 0 ] || command -v fusermount3 >/dev/null || missing="$missing fuse3"
if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "install.sh: please install what corresponds to Debian's packages$missing" >&2
        exit 1
    fi
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -q
    # Word splitting is meant: a list of packages.
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y $missing
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "install.sh: xloop needs Python 3.11 or later, and $python is $("$python" -V);" >&2
    echo "PYTHON=/path/to/another sh install.sh uses another one" >&2
    exit 1
fi

"$python" -m venv "$venv"
"$venv/bin/pip" --disable-pip-version-check install --quiet --upgrade "$top"
mkdir -p "${command%/*}"
ln -sf "$venv/bin/xloop" "$command"
mkdir -p "${page%/*}"
ln -sf "$venv/share/man/man1/xloop.1" "$page"
"$command" --version
case ":$PATH:" in
    *":${command%/*}:"*) ;;
    *) echo "installed as $command; ${command%/*} is not in your PATH" ;;
esac
