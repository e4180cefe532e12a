"""A budget of bytes: how many bits the integers of an artifact may take."""
from torch import Tensor

from timm_sbs.artifact.artifact import Artifact
from timm_sbs.artifact.folder import artifact_ledger, coded_ordering

__all__ = ['ByteBudget']

RESERVE = 200  # bytes of config.json for figures that are measured later
RATE_MARGIN = 0.004  # by which training aims below the budget, for the last steps cannot follow it exactly


class ByteBudget:
    """What a number of bytes for both files leaves for integers. Encodes the ordering once."""

    def __init__(self, artifact: Artifact, max_bytes: int) -> None:
        self.max_bytes = max_bytes - RESERVE
        self._ordering: Tensor = coded_ordering(artifact)

    def excess(self, artifact: Artifact) -> int:
        """Bytes by which both files are too large; below 0 if there is room."""
        return artifact_ledger(artifact, self._ordering)['total'] - self.max_bytes

    def wanted_bits(self, artifact: Artifact, bits: float) -> float:
        """Bits that the integers with fixed step sizes may take.

        Args:
            artifact: Of this moment.
            bits: What its integers take by the same model.
        """
        sizes = artifact_ledger(artifact, self._ordering)
        coded = max(1, sizes['predictor'] + sizes['rounded'])
        return max(1., bits * (self.max_bytes - sizes['total'] + coded) / coded * (1 - RATE_MARGIN))
