# SPDX-License-Identifier: MIT
"""What operations and work cost on a mount, beside the plain directory and beside other mounts.

Owns the parts of ``xloop bench``: what is measured (:mod:`~xloop.bench.rows`,
:mod:`~xloop.bench.workloads`), on what (:mod:`~xloop.bench.subjects`), how
(:mod:`~xloop.bench.measure`), and how it is told (:mod:`~xloop.bench.report`).  Does not own the
command's words: :mod:`xloop.cli.bench`.  Asserts nothing: a figure is for a person to judge.
"""
