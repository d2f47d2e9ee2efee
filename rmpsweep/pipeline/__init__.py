"""A launch, step by step. Nothing here prints: what happens is told by events, what came of it is returned.

``launch`` is the whole of it. ``prepare`` finds what a sweep depends on and plans it, with ``weights``; ``look`` reads
where it stands on disk, with ``search``; ``compute`` calibrates and evaluates what is missing, at a ``place``, followed
by ``progress``; ``publish`` makes tables, report and MLflow runs, with ``baseline`` and ``pictures``. ``status`` says
where a sweep stands, ``events`` are what a launch tells.
"""
