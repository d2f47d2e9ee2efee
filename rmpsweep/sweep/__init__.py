"""The sweep file, what it means, and the work that follows from it.

``schema``       what a sweep file may say, as frozen models, and the settings of its trials
``file``         finds, reads, changes, checks and writes sweep files and recipes; the only file that uses YAML
``thresholds``   thresholds from files, rules from outside the package, and presets of published methods
``plan``         the plan: trials times images, cut into units of work, and which of them are missing

Nothing here opens images, builds a network, or knows a results directory.
"""
