"""Batches in memory that is used again."""

import torch

from alexnet_fast.loading.memory import Buffers

SHAPE = (4, 8, 8, 3)


def test_memory_is_used_again_only_when_nobody_holds_it() -> None:
    buffers = Buffers()
    first = buffers.take(SHAPE, torch.float32).fill_(1)
    view = first[1:].permute(0, 3, 1, 2)
    place = first.data_ptr()
    del first
    second = buffers.take(SHAPE, torch.float32).fill_(2)
    assert second.data_ptr() != place
    assert (view == 1).all()
    del view
    third = buffers.take(SHAPE, torch.float32)
    assert third.data_ptr() == place
    assert (second == 2).all()


def test_a_smaller_batch_fits_and_a_larger_one_gets_more() -> None:
    buffers = Buffers()
    place = buffers.take(SHAPE, torch.float32).data_ptr()
    smaller = buffers.take((3, *SHAPE[1:]), torch.bfloat16)
    assert smaller.data_ptr() == place
    assert smaller.shape == (3, *SHAPE[1:])
    assert smaller.is_contiguous()
    del smaller
    larger = buffers.take((5, *SHAPE[1:]), torch.float32)
    assert larger.data_ptr() != place
    assert larger.shape == (5, *SHAPE[1:])
    assert larger.data_ptr() % Buffers.ALIGNED == 0


def test_who_keeps_every_batch_has_them_all() -> None:
    buffers = Buffers()
    kept = [buffers.take(SHAPE, torch.uint8).fill_(i) for i in range(3 * Buffers.MOST)]
    assert len({one.data_ptr() for one in kept}) == len(kept)
    assert all((one == i).all() for i, one in enumerate(kept))


def test_gradients_may_flow_into_it() -> None:
    """A tensor made under inference mode could not be used in training."""
    with torch.inference_mode():
        pass
    images = Buffers().take(SHAPE, torch.float32).fill_(1).requires_grad_()
    (2 * images).sum().backward()
    assert images.grad is not None
    assert (images.grad == 2).all()
