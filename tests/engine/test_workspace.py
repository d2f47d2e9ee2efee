"""The workspace of the CPU's kernels, and that the tests would notice a kernel that reads what nobody wrote."""

import torch

from rmpsweep.engine.cpu.workspace import Workspace


def test_a_released_block_is_used_again_for_tensors_of_about_its_size():
    workspace = Workspace()
    first = workspace.empty((100, 30), torch.int32)
    other = workspace.empty((100, 30), torch.int32)
    assert first.data_ptr() != other.data_ptr()
    workspace.release(first, torch.zeros(3))  # which is not the workspace's
    assert workspace.empty((99, 30), torch.float32).data_ptr() == first.data_ptr()


def test_what_nobody_wrote_is_poisoned_in_these_tests():
    workspace = Workspace()
    fresh = workspace.empty((8,), torch.uint8)
    assert set(fresh.tolist()) == {0xA5}
    fresh.zero_()
    workspace.release(fresh)
    assert set(fresh.tolist()) == {0xA5}  # whoever still reads it notices
    again = workspace.empty((8,), torch.float32)
    assert again.data_ptr() == fresh.data_ptr()
    assert bool(again.isnan().all())
    assert set(torch.empty(4, dtype=torch.int16).tolist()) == {0xA5A5 - 2**16}
    assert bool(torch.empty_like(again).isnan().all())
