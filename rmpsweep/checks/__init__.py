"""Checks before and after a sweep, each the work of one command.

``network``   `rmpsweep check`: convert a network, calibrate it on a few images, and compare it with its ANN by layer
``doctor``    `rmpsweep doctor`: whether this machine, or every node of a cluster, can run a sweep
``verify``    `rmpsweep verify`: compute committed units again and compare the results
"""
