# SPDX-License-Identifier: MIT
"""Random operations on a mount and on its twin, compared step by step.  Owns no test of one fact.

What belongs where: steps (the vocabulary, and how it is drawn), sides (who makes the calls, and on what),
perform (one step on one side), compare (what both sides must have in common), known (what they need
not), subjects (what is tested), driver (sequence after sequence), planted (bugs to be found).
"""
