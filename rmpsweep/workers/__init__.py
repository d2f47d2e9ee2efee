"""The workers of a launch, the driver that hands jobs to them without losing one, and the pools that run them.

Read `protocol` first: it has the values and interfaces that driver, pools and workers share. Then:

``driver``    the loop that hands out jobs and handles failures; ``schedule`` chooses the next job, ``crew`` keeps the
              workers, and ``state`` has the mutable values of all three
``events``    what a run tells its listener, and its outcome
``jobs``      the two kinds of job: calibrate, and evaluate a unit
``worker``    runs jobs; ``loading`` loads what they need, and ``gather`` puts their results together
``pools``     run workers in this process or on Ray

This file imports nothing, so that driver and events can be used without torch and ray.
"""
