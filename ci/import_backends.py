# SPDX-License-Identifier: MIT
"""Import every backend that is bundled, of every system, from what is installed: import_backends.py.

For a clean environment with nothing but the wheel and what it depends on.  A backend's module must be
importable anywhere; what it needs of a system is looked for when it is asked to mount.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Return 1, and say why, unless all can be imported and asked what they lack."""
    import xloop
    from xloop import registry

    if Path(xloop.__file__).is_relative_to(ROOT):
        sys.stderr.write("this is the checkout, not what was installed\n")
        return 1
    tables = registry.tables()
    for system, names in tables.items():
        for name, module in names.items():
            backend = import_module(module).backend()
            if backend.name != name:
                sys.stderr.write(f"{module} calls itself {backend.name}, not {name}\n")
                return 1
            sys.stdout.write(f"{system}: {name} from {module}\n")
    for name, state in registry.available().items():
        sys.stdout.write(f"here: {name}: {state.why or 'can mount'}\n")
    return 0 if tables and registry.bundled() else 1


if __name__ == "__main__":
    sys.exit(main())
