# SPDX-License-Identifier: MIT
"""``python -m xloop``: the command line, for where the script ``xloop`` is not on the path.

Owns nothing; the command line is :mod:`xloop.cli`.
"""

from __future__ import annotations

from xloop.cli import main

if __name__ == "__main__":
    main()
