"""Attention by plain products against torch's own kernel."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from thinkery.model import attention


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
