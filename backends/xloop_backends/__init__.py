# SPDX-License-Identifier: MIT
"""The adapters that come with xloop, each of them a backend that :mod:`xloop.registry` finds by name.

Owns nothing by itself.  An adapter translates between an Operations and a kernel or a library;
it may import the core, and never another adapter.
"""
