# SPDX-License-Identifier: MIT
"""Tests with programs that nobody here wrote, on real mounts.  Owns no test of a single operation."""
