# SPDX-License-Identifier: MIT
"""A C project configured, compiled, tested, installed and cleaned inside a mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from real.conftest import Place
from real.support import need, run

MODULES = 12

CONFIGURE = r"""#!/bin/sh
# Asks the compiler, as autoconf's scripts do: many small files made, run and removed.
set -e
: ${CC:=gcc}
: > config.log
echo '/* made by configure */' > config.h
check() {
    name=$1; shift
    printf '%s\n' "$@" > conftest.c
    if $CC -o conftest conftest.c >> config.log 2>&1 && ./conftest; then
        echo "#define HAVE_$name 1" >> config.h
    else
        echo "/* #undef HAVE_$name */" >> config.h
    fi
    rm -f conftest conftest.c
}
for header in stdio.h stdlib.h string.h unistd.h sys/mman.h no/such.h; do
    name=$(echo "$header" | tr 'a-z/.' 'A-Z__')
    check "$name" "#include <$header>" 'int main(void) { return 0; }'
done
check MMAP '#include <sys/mman.h>' \
    'int main(void) { return mmap(0, 4096, 3, 0x22, -1, 0) == MAP_FAILED; }'
sed -e "s|@CC@|$CC|" -e "s|@prefix@|${1#--prefix=}|" Makefile.in > Makefile.tmp
mv Makefile.tmp Makefile
chmod a-w config.h
"""

MAKEFILE = """
CC = @CC@
prefix = @prefix@
CFLAGS = -O1 -Wall -Werror -fPIC -MMD -I.
OBJECTS = {objects}

all: libsums.so libsums.a sums
libsums.so: $(OBJECTS)
\t$(CC) -shared -Wl,-soname,libsums.so.1 -o $@ $^
\tln -sf $@ libsums.so.1
libsums.a: $(OBJECTS)
\trm -f $@ && ar rcs $@ $^
sums: main.o libsums.so
\t$(CC) -o $@ main.o -L. -lsums -Wl,-rpath,'$$ORIGIN:$$ORIGIN/../lib'
static: main.o libsums.a
\t$(CC) -o $@ main.o libsums.a
check: sums static
\t./sums 5 > sums.out && ./static 5 > static.out && cmp sums.out static.out
\ttest "$$(cat sums.out)" = {expected}
install: all
\tinstall -d $(prefix)/bin $(prefix)/lib
\tinstall -m 755 sums $(prefix)/bin
\tinstall -m 644 libsums.so $(prefix)/lib
\tln -sf libsums.so $(prefix)/lib/libsums.so.1
clean:
\trm -f *.o *.d *.a *.so *.so.1 *.out sums static
.PHONY: all check install clean
-include $(wildcard *.d)
"""


def write_project(where: Path) -> None:
    where.mkdir()
    names = [f"sum{number}" for number in range(MODULES)]
    for number, name in enumerate(names):
        text = f'#include "sums.h"\nint {name}(int n) {{ return n + {number}; }}\n'
        (where / f"{name}.c").write_text(text)
    header = "".join(f"int {name}(int n);\n" for name in names)
    (where / "sums.h").write_text(f'#include "config.h"\n{header}')
    calls = " + ".join(f"{name}(n)" for name in names)
    (where / "main.c").write_text(
        '#include <stdio.h>\n#include <stdlib.h>\n#include "sums.h"\n'
        "#if !HAVE_MMAP || !HAVE_STDIO_H || HAVE_NO_SUCH_H\n#error configure was wrong\n#endif\n"
        "int main(int argc, char **argv)\n{\n    int n = atoi(argv[1]);\n"
        f'    printf("%d\\n", {calls});\n    return 0;\n}}\n'
    )
    expected = 5 * MODULES + sum(range(MODULES))
    objects = " ".join(f"{name}.o" for name in names)
    (where / "Makefile.in").write_text(MAKEFILE.format(objects=objects, expected=expected))
    (where / "configure").write_text(CONFIGURE)
    (where / "configure").chmod(0o755)


@pytest.fixture
def project(place: Place) -> Path:
    need("gcc", "make", "ar")
    where = place.mnt / "project"
    write_project(where)
    run("./configure", f"--prefix={place.mnt}/prefix", cwd=where)
    return where


def test_a_project_is_built_tested_and_installed(place: Place, project: Path) -> None:
    run("make", "-j3", "all", cwd=project)
    run("make", "check", cwd=project)
    run("make", "install", cwd=project)
    assert run(place.mnt / "prefix" / "bin" / "sums", "1").out.strip().isdigit()
    run("make", "clean", cwd=project)
    left = {name for name in os.listdir(project) if name.endswith((".o", ".so", ".a", ".d"))}
    assert left == set()


def test_make_rebuilds_what_changed_and_nothing_else(project: Path) -> None:
    """Times must not move by themselves, not even by a nanosecond, when caches are dropped."""
    run("make", "-j3", "all", cwd=project)
    assert run("make", "-q", "all", cwd=project).status == 0
    changed = project / "sum3.c"
    changed.write_text(changed.read_text() + "/* changed */\n")
    built = run("make", "all", cwd=project).out
    assert b"sum3.c" in built
    assert b"sum4.c" not in built
    assert run("make", "-q", "all", cwd=project).status == 0


def test_a_running_program_cannot_be_written_to(project: Path) -> None:
    """ETXTBSY, as on every file system that programs are run from."""
    run("make", "all", cwd=project)
    script = "#include <unistd.h>\nint main(void) { return read(0, (char[1]){0}, 1) < 0; }\n"
    (project / "wait.c").write_text(script)
    run("gcc", "-o", "wait", "wait.c", cwd=project)
    run(
        "sh",
        "-c",
        "mkfifo go; ./wait < go & exec 3> go; sleep 0.1;"
        "if (: > wait) 2> error; then exit 1; fi; grep -q 'Text file busy' error; s=$?;"
        "exec 3>&-; wait; exit $s",
        cwd=project,
    )
