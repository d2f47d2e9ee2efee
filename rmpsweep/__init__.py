"""Sweeps of converted spiking networks: accuracy against latency, exactly once, on one laptop or a Ray cluster.

Reading order:

1. ``engine``    what a converted network computes; ``engine/neuron.py`` is the specification
2. ``sweep``     the sweep file, checked, and its trials
3. ``plan``      trials x images -> units of work, and which of them are missing
4. ``driver``    the loop that hands units to workers;  ``pools`` where they run;  ``worker`` what one does
5. ``results``   what lies on disk;  ``merge`` the tables made from it
6. ``stats``, ``tracking``, ``report``   what people read
7. ``pipeline``  the verbs of the main command, in order;  ``cli`` the commands
"""

__version__ = "0.1.0"
