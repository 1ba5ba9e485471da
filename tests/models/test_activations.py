"""ReLU6 beside torch's own."""

import pytest
import torch

from segkit.models.activations import ReLU6


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_result_and_gradient_are_torchs_to_the_bit(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    x = 5 * torch.randn(2, 3, 8, 8)
    x[0, 0, 0, :4] = torch.tensor([0.0, 6.0, -0.0, float("nan")])
    upstream = torch.randn(x.shape).to(kind)
    found = []
    for clip in (ReLU6(), torch.nn.ReLU6()):
        leaf = x.to(kind).requires_grad_()
        y = clip(leaf * 1)
        y.backward(upstream)
        assert leaf.grad is not None
        found.append((y, leaf.grad))
    (ours, our_gradient), (theirs, their_gradient) = found
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=0, atol=0, equal_nan=True)


def test_one_map_is_kept() -> None:
    kept = []

    def pack(part: torch.Tensor) -> torch.Tensor:
        kept.append(part.untyped_storage().data_ptr())
        return part

    x = torch.randn(4, 4, requires_grad=True) * 1
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda part: part):
        y = ReLU6()(x)
    assert set(kept) == {y.untyped_storage().data_ptr()} == {x.untyped_storage().data_ptr()}


def test_in_place_without_gradients() -> None:
    x = torch.tensor([-1.0, 3.0, 9.0])
    y = ReLU6()(x)
    assert y.data_ptr() == x.data_ptr()
    assert y.tolist() == [0.0, 3.0, 6.0]
