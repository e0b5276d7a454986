"""Figures for the README: what mltrace costs a call, a server and an import.

``python -m benchmarks`` from the repository root measures everything and prints Markdown; ``overhead``, ``drain``,
``import``, ``middleware``, ``service`` and ``soak`` choose parts, ``--quick`` trades precision for time, ``--json FILE`` keeps every sample.

How the figures are taken: what is compared runs in the same process, or else in the same kind of process, in blocks
of random order within rounds; a figure is the median over the rounds, with the range beside it; a ratio is the median
of the ratios within each round, because a noisy second then hits both sides of it. ``overhead`` also measures one row
twice under two names: the ratio between the two is the error of the method, to be read before any other ratio.
"""
