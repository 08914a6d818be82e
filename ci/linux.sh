#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Sets up what the checks need and runs every one of them, on Debian 12 or later or Ubuntu 24.04.
#
#     bash ci/linux.sh
#
# Installs missing system packages with apt-get; everything else goes into a temporary directory
# that is removed at the end, and nothing that is mounted is seen by the rest of the machine.
# All steps run, also after one has failed; the failures are named at the end, and the status
# is 0 only if there are none.  PYTHON=/path/to/python3 chooses another Python (3.11 or later); it
# must be one that every user may execute, for the tests run as an ordinary user too.

set -u -o pipefail # and not -e: one failing step must not hide the others

top=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-/usr/bin/python3}

# apt-get, a second user and mounts by mount(2) need root.
if [ "$(id -u)" != 0 ]; then
    exec sudo env PYTHON="$python" bash "$0" "$@"
fi

# A mount namespace of its own: whatever a failing test leaves mounted, the machine does not
# see it, and what is left can be told from what others mount meanwhile.
if [ -z "${XLOOP_CI_NAMESPACE:-}" ]; then
    XLOOP_CI_NAMESPACE=1 exec unshare --mount --propagation private -- bash "$0" "$@"
fi
unset XLOOP_CI_NAMESPACE
# As systemd has it: what is unmounted here is unmounted in namespaces that tests make meanwhile.  Else one
# would keep a copy of another's mount, and its server.
mount --make-rshared / || exit 1

umask 022                      # the ordinary user reads what root makes here
exec </dev/null                # nothing may wait for an answer
export LC_ALL=C.UTF-8          # messages in English, names in UTF-8
export DEBIAN_FRONTEND=noninteractive
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

failed=()
summary=()

# step NAME COMMAND...: run one step and remember how it ended.
step() {
    local name=$1 begin=$SECONDS outcome=ok
    shift
    printf '\n=== %s\n' "$name"
    if ! "$@"; then
        outcome=FAILED
        failed+=("$name")
        printf '=== FAILED: %s\n' "$name"
    fi
    summary+=("$(printf '%-6s %4d s  %s' "$outcome" $((SECONDS - begin)) "$name")")
    [ "$outcome" = ok ]
}

# -- what must be there before anything can be checked ----------------------------------------

# needed COMMAND PACKAGE: note PACKAGE if there is no COMMAND.
missing=()
needed() {
    command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}

system_packages() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
    needed fusermount3 fuse3 # mounts for users without privileges
    ldconfig -p | grep -q 'libfuse\.so\.2' || missing+=(libfuse2) # libfuse 3 comes with fuse3
    # File systems to be shown.
    needed bindfs bindfs
    needed mkfs.btrfs btrfs-progs
    needed mkfs.ext4 e2fsprogs
    needed mkfs.xfs xfsprogs
    # Real programs that work inside a mount, and what the contract tests look through.
    needed getfacl acl
    needed getfattr attr
    needed lsattr e2fsprogs
    needed setcap libcap2-bin
    needed fio fio
    needed gcc gcc
    needed git git
    needed inotifywait inotify-tools
    needed make make
    needed ps procps
    needed rsync rsync
    needed sqlite3 sqlite3
    needed systemd-analyze systemd # checks the units of docs/systemd, and runs them in a namespace
    needed tar tar
    needed mandoc mandoc # looks at the manual page
    # Shells that complete.
    needed fish fish
    needed zsh zsh
    # Containers that are given a mount: 15 MB to download, seven seconds to install.
    needed busybox busybox-static
    needed newuidmap uidmap
    needed podman podman
    needed runc runc
    [ -e /usr/include/stdio.h ] || missing+=(libc6-dev) # gcc only recommends it
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    [ ${#missing[@]} = 0 ] && return
    apt-get update -q -o Acquire::Retries=3 &&
        apt-get install -q -y --no-install-recommends "${missing[@]}"
}

work=$(mktemp -d /var/tmp/xloop-ci.XXXXXX) || exit 1 # not /tmp: that may be too small a tmpfs
chmod 755 "$work"
user=xloop$$ # of this run alone: removed with it
readonly work user
mkdir -m 1777 "$work/tmp"
mkdir "$work/xloop" "$work/dist"

# Everything that is mounted in this namespace, by type and place, the innermost first.
mounts() {
    awk '{ for (i = 7; $i != "-"; i++) continue; print $(i + 1), $5 }' /proc/self/mountinfo | tac
}

# Everything that a test starts has the temporary directory in its command line or in its PATH.
processes() {
    local proc
    for proc in /proc/[0-9]*; do
        if grep -qzF -- "$work" "$proc/environ" "$proc/cmdline" 2>/dev/null; then
            printf '%s ' "${proc#/proc/}"
            tr '\0' ' ' <"$proc/cmdline" 2>/dev/null
            echo
        fi
    done
}

clean_up() {
    local pid rest point
    cd /
    processes | while read -r pid rest; do kill -KILL "$pid"; done 2>/dev/null
    mounts | while read -r _ point; do
        case $point in "$work"/*) umount -l "$(printf %b "$point")" ;; esac
    done 2>/dev/null
    userdel "$user" 2>/dev/null
    [ -z "${restricted:-}" ] || echo "$restricted" >/proc/sys/kernel/apparmor_restrict_unprivileged_userns
    # And never into a mount that is there all the same: it may show what somebody needs.
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# Users may open /dev/fuse on every Debian with udev.  Where no udev has set its mode
# (containers, minimal machines), show this namespace a node that they may open.
fuse_for_users() {
    [ -c /dev/fuse ] || { echo "no /dev/fuse: modprobe fuse"; return 1; }
    [ -n "$(find /dev/fuse -perm -o=rw)" ] && return
    mkdir "$work/dev" &&
        mount -t tmpfs -o mode=755 xloop-ci "$work/dev" &&
        mknod -m 666 "$work/dev/fuse" c 10 229 &&
        mount --bind "$work/dev/fuse" /dev/fuse &&
        umount -l "$work/dev"
}

# Ubuntu lets only programs with a profile have user namespaces, which `xloop run` needs.
namespaces_for_users() {
    local setting=/proc/sys/kernel/apparmor_restrict_unprivileged_userns
    [ -e $setting ] || return 0
    read -r restricted <$setting && echo 0 >$setting
}

# A copy of what would be committed, which the ordinary user may read wherever the checkout is.
copy() {
    cd "$top" || return
    if [ -e .git ]; then
        # safe.directory: root works on a checkout that may belong to somebody else.
        git -c safe.directory='*' ls-files -z --cached --others --exclude-standard |
            while IFS= read -r -d '' file; do
                if [ -e "$file" ] || [ -L "$file" ]; then printf '%s\0' "$file"; fi
            done | tar -c --no-recursion --null --files-from=- | tar -x -C "$work/xloop"
    else
        tar -c . | tar -x -C "$work/xloop"
    fi && chmod -R a+rX "$work/xloop"
}

# What is tested is the wheel, and the wheel that was built from the sdist: an editable
# installation proves nothing about either.
install() {
    "$python" -m venv "$work/venv" &&
        "$work/venv/bin/pip" install --quiet build || return
    if ! "$work/venv/bin/python" -m build --outdir "$work/dist" . >"$work/build.log" 2>&1; then
        cat "$work/build.log"
        return 1
    fi
    "$work/venv/bin/pip" install --quiet "$(echo "$work"/dist/*.whl)[test,dev]"
}

ordinary_user() {
    # A user with a name: fusermount3 refuses one without.
    useradd --no-create-home --home-dir "$work/home-user" --shell /bin/sh "$user" &&
        mkdir -m 700 "$work"/{home,run}-{root,user} && chown "$user:" "$work"/{home,run}-user
}

# Each of these needs the one before it.
set_up() {
    step "system packages" system_packages &&
        step "/dev/fuse for users" fuse_for_users &&
        step "user namespaces for users" namespaces_for_users &&
        step "an ordinary user" ordinary_user &&
        step "a copy of the checkout" copy &&
        cd "$work/xloop" &&
        step "sdist, wheel, installation" install
}

# -- the checks ------------------------------------------------------------------------------

# as WHO COMMAND...: run a command as root or as the ordinary user, with an environment in which
# nothing of whoever calls this script is left.
as() {
    local who=$1 become=()
    shift
    [ "$who" = root ] || become=(setpriv --reuid "$user" --regid "$user" --init-groups)
    "${become[@]}" env -i HOME="$work/home-$who" TMPDIR="$work/tmp" LC_ALL=C.UTF-8 \
        XDG_RUNTIME_DIR="$work/run-$who" \
        HYPOTHESIS_STORAGE_DIRECTORY="$work/run-$who/hypothesis" \
        PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
        PATH="$work/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "$@"
}

# The first command of the README, as it is printed there, as an ordinary user who has nothing.
readme() {
    local command status=0
    command=$(awk '/^```sh$/ { inside = 1; next } /^```$/ { if (inside) exit } inside' README.md)
    printf '%s\n' "$command"
    newcomer "$command" &&
        newcomer "ls -A /usr >~/expected; ls -A ~/view | cmp - ~/expected" &&
        newcomer "cmp /usr/bin/env ~/view/bin/env" || status=1
    newcomer "cd; .local/bin/xloop umount view" || status=1
    return $status
}

newcomer() {
    setpriv --reuid "$user" --regid "$user" --init-groups \
        env -i HOME="$work/home-user" PATH=/usr/local/bin:/usr/bin:/bin sh -c "$1"
}

# types PLATFORM: mypy as it would run there.  What it says of a platform's branches is all that
# is known of them before somebody runs them.
# --exclude: the adapter for Linux's own device is imported nowhere else.
types() {
    if [ "$1" = linux ]; then set -- "$1" --exclude '^$'; else set -- "$1" --exclude '/devfuse/'; fi
    as root mypy --cache-dir "$work/mypy" --platform "$@"
}

# tests WHO: all tests as root or as the ordinary user.
#   --require-mount      a backend that must be there fails the tests if it is not, no skip
#   -p no:cacheprovider  the copy of the checkout is not the ordinary user's to write to
#   --durations          where the time goes
#   timeout              no test may take so long; but if the run hangs, the log shall say where
tests() {
    as "$1" timeout --kill-after=20 2400 \
        pytest --require-mount -p no:cacheprovider --basetemp "$work/tmp/pytest-$1" \
        --color=no --durations=10 2>&1 | tee "$work/tests-$1.log"
}

# shown WHO PID: wait for tests in the background, and show what they said.
shown() {
    local status=0
    wait "$2" || status=$?
    cat "$work/tests-$1.log"
    return $status
}

# No mount and no process may be left, whoever made it.  Servers end a moment after their mount.
leftovers() {
    local mounted running deadline=$((SECONDS + 5))
    while
        mounted=$(mounts | grep -vxFf "$work/mounts-before")
        running=$(processes)
        [ -n "$mounted$running" ]
    do
        if [ $SECONDS -ge $deadline ]; then
            printf 'still mounted: %s\n' "${mounted:-nothing}"
            printf 'still running: %s\n' "${running:-nothing}"
            return 1
        fi
        sleep 0.2
    done
}

# What became of the tests on each subject, as each of the two runs has counted it.
subjects() {
    awk '/^=+ subjects =+$/ { on = 1; next } /^=/ { on = 0 } on && !seen[$0]++' \
        "$work"/tests-{root,user}.log 2>/dev/null
}

closing_line() {
    grep -E '^=+ .* in [0-9.]+s.* =+$' "$work/tests-$1.log" 2>/dev/null | tail -n 1
}

if set_up; then
    step "ruff check" as root ruff check --no-cache .
    step "ruff format" as root ruff format --no-cache --check .
    for platform in linux darwin win32; do
        step "mypy for $platform" types "$platform"
    done
    step "imports run one way" as root lint-imports --no-cache
    step "the wheel holds all and only the packages" \
        as root python ci/check_wheel.py "$work"/dist/*.whl
    mounts >"$work/mounts-before"
    step "the README's first command" readme
    # Both at the same time: what tests a file system waits more than it works.
    tests user >/dev/null &
    user_tests=$!
    step "tests as root" tests root
    step "tests as an ordinary user" shown user $user_tests
    step "nothing is left" leftovers
fi

printf '\n=== Summary\n'
printf '%s\n' "${summary[@]}"
[ ${#failed[@]} = 0 ] || printf 'FAILED: %s\n' "${failed[@]}"
printf '%s\n' "$(subjects)"
printf 'as root:             %s\n' "$(closing_line root)"
printf 'as an ordinary user: %s\n' "$(closing_line user)"
[ ${#failed[@]} = 0 ]
