from __future__ import annotations

import numpy as np
import torch

from thinkery.train.batch import Example, arrange, pack, pack_shared


def test_sequences_of_similar_length_share_a_micro_batch_and_the_longest_come_first():
    assert list(arrange([3, 9, 4, 8, 2], max_tokens=10)) == [[1], [3], [2, 0, 4]]


def test_a_sequence_longer_than_the_limit_stands_alone():
    assert list(arrange([50, 3, 3], max_tokens=10)) == [[0], [1, 2]]


def test_a_batch_points_from_each_learnt_token_to_the_place_that_predicts_it():
    short = Example([5, 6, 7], learn_from=2, advantage=-1.0, old=[-0.1], reference=[-0.3], sampler=[-0.2])
    long = Example(
        [1, 2, 3, 4], learn_from=1, advantage=2.0, old=[-1, -2, -3], reference=[-4, -5, -6], sampler=[0, 0, 0]
    )
    (batch,) = pack([short, long], max_tokens=100)
    assert batch.examples == (1, 0)
    assert batch.lengths == (4, 3)
    assert batch.learnt == (3, 1)
    assert batch.tokens_T.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert batch.predictors_C.tolist() == [0, 1, 2, 5]
    assert batch.labels_C.tolist() == [2, 3, 4, 7]
    assert batch.advantages_C.tolist() == [2.0, 2.0, 2.0, -1.0]
    assert batch.old_C is not None
    torch.testing.assert_close(batch.old_C, torch.tensor([-1.0, -2.0, -3.0, -0.1]))


def test_fields_that_no_example_carries_are_none():
    (batch,) = pack([Example(np.array([1, 2, 3]))], max_tokens=8)
    assert batch.old_C is None
    assert batch.reference_C is None
    assert batch.labels_C.tolist() == [2, 3]


def test_attempts_at_one_question_stand_behind_one_copy_of_its_prompt():
    first, other, second = (
        Example([1, 2, 7, 8], learn_from=2, advantage=1.0),
        Example([3, 9], learn_from=1, advantage=3.0),
        Example([1, 2, 5], learn_from=2, advantage=2.0),
    )
    (batch,) = pack_shared([first, other, second], max_tokens=100)
    assert batch.groups == ((2, (2, 1)), (1, (1,)))
    assert batch.examples == (0, 2, 1)
    assert batch.tokens_T.tolist() == [1, 2, 7, 8, 5, 3, 9]
    assert batch.predictors_C.tolist() == [1, 2, 1, 5]  # both attempts begin where the prompt ends
    assert batch.labels_C.tolist() == [7, 8, 5, 9]
    assert batch.advantages_C.tolist() == [1.0, 1.0, 2.0, 3.0]


def test_a_group_that_is_too_large_is_parted_and_repeats_its_prompt():
    attempts = [Example([1, 2, 3, *range(10, 10 + n)], learn_from=3) for n in (4, 3, 2)]
    batches = pack_shared(attempts, max_tokens=9)
    assert [batch.groups for batch in batches] == [((3, (3, 2)),), ((3, (4,)),)]
    assert [batch.examples for batch in batches] == [(1, 2), (0,)]
