"""Attention by plain products against torch's own kernel, and how that is called."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from thinkery.engine.native.cache import Cache
from thinkery.engine.native.graphs import over_first
from thinkery.model import attention
from thinkery.model.transformer import Shape


@pytest.mark.parametrize("masked", [False, True], ids=["causal", "masked"])
def test_plain_products_give_the_outputs_and_gradients_of_the_fused_kernel(masked, monkeypatch):
    monkeypatch.setattr(attention, "CAUSAL_BLOCK", 2)  # 5 keys: two blocks and a half
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 5, 4, generator=draw, requires_grad=True) for heads in (6, 2, 2))
    slope = torch.randn(2, 6, 5, 4, generator=draw)
    seen = torch.rand(2, 1, 5, 5, generator=draw) < 0.5
    seen |= torch.eye(5, dtype=torch.bool)
    ours = attention.by_products(q, k, v, seen) if masked else attention.causal_products(q, k, v)
    theirs = F.scaled_dot_product_attention(
        q, k, v, attn_mask=seen if masked else None, is_causal=not masked, enable_gqa=True
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for mine, other in zip(
        torch.autograd.grad(ours, (q, k, v), slope), torch.autograd.grad(theirs, (q, k, v), slope), strict=True
    ):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


class Calls(TorchFunctionMode):
    """Notes how torch's kernel is called: heads of queries, keys and values, number format, mask, and whether heads
    share keys."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        settings = kwargs or {}
        masked, shared = settings["attn_mask"] is not None, settings.get("enable_gqa", False)
        self.found.append((*(x.shape[1] for x in args), args[0].dtype, masked, shared))
        return torch.empty_like(args[0])


def called(device: str, dtype: torch.dtype, masked: bool) -> tuple:
    """How the kernel is called for 6 heads of queries with 2 of keys, on a device that need not be there."""
    with FakeTensorMode(), Calls() as noted:
        q, k, v = (torch.empty(1, heads, 5, 8, dtype=dtype, device=device) for heads in (6, 2, 2))
        seen = torch.ones(1, 1, 5, 5, dtype=torch.bool, device=device) if masked else None
        attention.attention(q, k, v, seen)
    (found,) = noted.found
    return found


def test_on_cuda_heads_share_keys_only_where_a_fused_kernel_takes_that():
    """FlashAttention does: half precision without a mask. A mask or float32 wants a key for each head."""
    half, full = torch.bfloat16, torch.float32
    assert called("cuda", half, False) == (6, 2, 2, half, False, True)
    assert called("cuda", half, True) == (6, 6, 6, half, True, False)
    assert called("cuda", full, False) == (6, 6, 6, full, False, False)
    assert called("cuda", full, True) == (6, 6, 6, full, True, False)
    assert called("cpu", full, False) == (6, 2, 2, full, False, True)
    assert called("cpu", full, True) == (6, 2, 2, full, True, True)


def test_under_autocast_queries_in_float32_are_repeated_in_the_format_of_the_values():
    """Rotated queries and keys are wide where values, which come from a product, are not."""
    with FakeTensorMode(), Calls() as noted:
        q, k, v = (torch.empty(1, heads, 5, 8, device="cuda") for heads in (6, 2, 2))
        attention.fused(q, k, v.to(torch.bfloat16), torch.ones(1, 1, 5, 5, dtype=torch.bool, device="cuda"))
    assert noted.found == [(6, 6, 6, torch.bfloat16, True, False)]


def test_repeated_keys_and_queries_side_by_side_give_what_shared_keys_give():
    """A prompt read at once, and a decoding step, which asks each key with the 3 queries that share it."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, heads, 8, generator=draw) for heads in (6, 2, 2))
    cache = Cache(Shape("llama", 9, 48, 9, 1, 6, 2, 8), torch.float32, torch.device("cpu"))
    cache.resize(3, 16)
    cache.keys[0].normal_(generator=draw)
    cache.values[0].normal_(generator=draw)
    positions = torch.tensor([0, 4, 9])
    with Calls() as noted:
        over_first(cache, positions, 12)(0, q, k, v)
    assert noted.found == [(2, 2, 2, torch.float32, True, False)]
    ours = over_first(cache, positions, 12)(0, q, k, v)
    keys, values = cache.keys[0][:, :, :12], cache.values[0][:, :, :12]
    seen = (torch.arange(12) <= positions[:, None])[:, None, None]
    shared = F.scaled_dot_product_attention(q[:, :, None], keys, values, attn_mask=seen, enable_gqa=True)
    torch.testing.assert_close(ours, shared[:, :, 0], atol=1e-6, rtol=1e-6)
    apart = keys.repeat_interleave(3, 1), values.repeat_interleave(3, 1)
    repeated = F.scaled_dot_product_attention(q[:, :, None], *apart, attn_mask=seen)
    torch.testing.assert_close(repeated, shared, atol=1e-6, rtol=1e-6)
