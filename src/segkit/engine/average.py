"""A moving average of the weights in training: a second network that follows the first."""

import copy

import torch
from torch import Tensor, nn

from segkit.engine import checkpoint
from segkit.errors import CheckpointError


class Average:
    """The exponential moving average of ``model``'s trainable parameters, in fp32.

    It begins at the weights that ``model`` has now. Nothing of it is in the DeepLab papers.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self._network = copy.deepcopy(model).eval().float()
        pairs = zip(model.parameters(), self._network.parameters(), strict=True)
        trained = [(theirs, own) for theirs, own in pairs if theirs.requires_grad]
        self._weights, self._means = map(list, zip(*trained, strict=True))
        self._network.requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int, applied: Tensor) -> None:
        """Take in the weights after update number ``step`` of the stage (the first is 0).

        ``applied`` is 1, or 0 for an update that skipped itself: a scalar on the device, which
        nobody has to wait for.
        """
        # As the num_updates of TensorFlow's ExponentialMovingAverage: with a decay of 0.9999 from
        # the start, a hundred updates later 99 % of the average would be a random classifier.
        decay = min(self._decay, (1 + step) / (10 + step))
        apart = torch._foreach_sub(self._weights, self._means)
        torch._foreach_mul_(apart, applied * (1 - decay))  # a lerp would take the weight from here
        torch._foreach_add_(self._means, apart)

    def network(self) -> nn.Module:
        """The averaged network as of now, in eval mode; the buffers are ``model``'s own.

        Batch-norm statistics are moving averages already, by the batch norm's momentum.
        """
        for theirs, own in zip(self._model.buffers(), self._network.buffers(), strict=True):
            own.copy_(theirs)
        return self._network.eval()

    def resume(self, point: checkpoint.Checkpoint) -> None:
        """Go on as ``point`` left it; CheckpointError if it holds no average, or another's."""
        checkpoint.load_weights(self._network, averaged(point), point.path / checkpoint.AVERAGE)


def averaged(point: checkpoint.Checkpoint) -> dict[str, Tensor]:
    """The average that ``point`` holds; CheckpointError CKPT-NO-AVERAGE if there is none."""
    if point.average is None:
        what = "holds no average of the weights to go on with (schedule.ema)"
        fix = "resume with schedule.ema=null, or start another run with name=..."
        raise CheckpointError("NO-AVERAGE", point.path, what, fix)
    return point.average
