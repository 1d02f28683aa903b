"""What a request asks of the logits besides sampling: a bias on some tokens, and the likeliest ones told.

Shapes: B rows, V vocabulary, N alternatives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thinkery.engine.native.sampler import tempered
from thinkery.engine.native.sequence import Sample


def biased(logits_BV: Tensor, rows: Sequence[Sample]) -> Tensor:
    """Logits with what each row's request adds to them; the same tensor where no request adds anything."""
    added = {i: row.prompt.request.bias(row.tokens) for i, row in enumerate(rows) if row.prompt.request.bias}
    if not any(added.values()):
        return logits_BV
    logits_BV = logits_BV.clone()
    for i, bias in added.items():
        ids = torch.tensor(list(bias), dtype=torch.int64, device=logits_BV.device)
        logits_BV[i, ids] += torch.tensor(list(bias.values()), dtype=logits_BV.dtype, device=logits_BV.device)
    return logits_BV


def note_alternatives(logits_BV: Tensor, rows: Sequence[Sample]) -> None:
    """Tell every row whose request asks for them the likeliest tokens, under softmax(logits / temperature)."""
    asking = [i for i, row in enumerate(rows) if row.prompt.request.alternatives]
    if not asking:
        return
    settings = [rows[i].prompt.request.sampling for i in asking]
    logprobs_BV = tempered(logits_BV[asking].float(), settings).log_softmax(-1)
    most = min(max(rows[i].prompt.request.alternatives for i in asking), logprobs_BV.shape[1])
    values_BN, ids_BN = logprobs_BV.topk(most)
    for i, ids, values in zip(asking, ids_BN.tolist(), values_BN.tolist(), strict=True):
        rows[i].alternatives = tuple(zip(ids, values, strict=True))[: rows[i].prompt.request.alternatives]
