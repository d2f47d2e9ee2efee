"""How tensors lie in memory inside the kernels: channels-last, channels padded."""

PAD = 16
"""Channels are padded with silent ones to a multiple of this."""


def padded(channels: int) -> int:
    """Channels in memory."""
    return -(-channels // PAD) * PAD
