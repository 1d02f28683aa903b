"""A shared prompt gives what a prompt of one's own gives: outputs and gradients."""

import pytest
import torch

from thinkery.model.shared import shared_causal, shared_positions
from thinkery.model.transformer import Shape, Transformer

SHAPE = Shape("llama", 50, 32, 48, 2, 4, 2, 8)
GROUPS = ((3, (2, 5, 1)), (7, (4,)), (2, (6, 6)))


@pytest.fixture
def network() -> Transformer:
    made = Transformer(SHAPE)
    made.initialise(torch.Generator().manual_seed(0), 0.2)
    return made


def layout(tokens: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Every whole sequence of the layout, and where in the layout its tokens stand."""
    sequences, places, at = [], [], 0
    for prompt, parts in GROUPS:
        asked, after = torch.arange(at, at + prompt), at + prompt
        for part in parts:
            place = torch.cat((asked, torch.arange(after, after + part)))
            sequences.append(tokens[place])
            places.append(place)
            after += part
        at = after
    return sequences, places


def test_hidden_states_and_gradients_equal_those_of_whole_sequences(network: Transformer) -> None:
    total = sum(prompt + sum(parts) for prompt, parts in GROUPS)
    tokens = torch.randint(50, (total,), generator=torch.Generator().manual_seed(1))
    weight = torch.randn(total, 32, generator=torch.Generator().manual_seed(2))
    sequences, places = layout(tokens)

    shared = network(tokens, shared_positions(GROUPS), shared_causal(GROUPS))
    loss = sum((shared[place] * weight[place]).sum() for place in places)
    ours = torch.autograd.grad(loss, list(network.parameters()))  # type: ignore[arg-type]

    whole = network.packed(torch.cat(sequences), [len(s) for s in sequences])
    split = whole.split([len(s) for s in sequences])
    loss = sum((own * weight[place]).sum() for own, place in zip(split, places, strict=True))
    theirs = torch.autograd.grad(loss, list(network.parameters()))  # type: ignore[arg-type]

    for own, place in zip(split, places, strict=True):
        torch.testing.assert_close(shared[place], own, atol=1e-5, rtol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_positions_go_on_where_the_prompt_ends() -> None:
    assert shared_positions(((2, (1, 3)), (1, (2,)))).tolist() == [0, 1, 2, 2, 3, 4, 0, 1, 2]
