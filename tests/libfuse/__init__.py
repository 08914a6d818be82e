# SPDX-License-Identifier: MIT
"""The backends over libfuse as such, and a backend of somebody else.  Owns no test of a single operation."""
