"""What a converted network computes. Takes tensors, returns tensors; knows nothing of sweeps, files or clusters.

Reading order: neuron (the specification), network, convert, scales, calibrate, encode, loop, simulate, activity.
"""

from rmpsweep.engine.activity import dense_macs, fan_out
from rmpsweep.engine.calibrate import calibrate
from rmpsweep.engine.convert import convert
from rmpsweep.engine.network import SpikingNetwork
from rmpsweep.engine.numerics import CalibratedSetting
from rmpsweep.engine.reference import State
from rmpsweep.engine.scales import thresholds_from_scales
from rmpsweep.engine.simulate import Simulation, simulate, simulate_many
from rmpsweep.terms import ENGINE_VERSION

__all__ = [
    "ENGINE_VERSION",
    "CalibratedSetting",
    "Simulation",
    "SpikingNetwork",
    "State",
    "calibrate",
    "convert",
    "dense_macs",
    "fan_out",
    "simulate",
    "simulate_many",
    "thresholds_from_scales",
]
