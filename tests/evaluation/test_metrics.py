"""Metrics against their formulas written out in float64, and against what must hold of them."""

import math

import pytest
import torch

from lavieid_adapters.data.labels import IGNORED
from lavieid_adapters.evaluation.metrics import (
    bootstrap_interval,
    face_similarity,
    flicker,
    frechet_distance,
    route_iou,
    second_difference_flicker,
    temporal_consistency,
)

# n videos · f frames · d channels


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double(), b.double()
    return float(sum(a * b) / (sum(a * a) * sum(b * b)) ** 0.5)


def test_face_similarity_is_the_mean_cosine_and_a_missing_face_counts_0():
    embeddings, reference = random(2, 3, 5), random(2, 5, seed=1)
    mask = torch.tensor([[True, True, True], [True, False, True]])
    embeddings[1, 1] = math.nan  # what a recogniser may give where there is nothing
    cosines = [[cosine(embeddings[i, j], reference[i]) for j in range(3)] for i in range(2)]
    assert min(cosines[0]) < 0, "negative cosines must be seen to stay"
    wanted = [sum(cosines[0]) / 3, (cosines[1][0] + cosines[1][2]) / 3]
    torch.testing.assert_close(face_similarity(embeddings, reference, mask), torch.tensor(wanted))
    skipped = face_similarity(embeddings, reference, mask, skip_missing=True)
    torch.testing.assert_close(skipped, torch.tensor([wanted[0], wanted[1] * 3 / 2]))
    assert face_similarity(embeddings, reference, ~mask & False).tolist() == [0, 0]
    assert face_similarity(embeddings, reference, ~mask & False, skip_missing=True).isnan().all()


def test_face_similarity_does_not_depend_on_the_embeddings_lengths():
    embeddings, reference = random(2, 3, 5), random(2, 5, seed=1)
    torch.testing.assert_close(
        face_similarity(7 * embeddings, reference / 9), face_similarity(embeddings, reference), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(face_similarity(reference[:, None].expand(2, 3, 5), reference), torch.ones(2))


def test_temporal_consistency_is_vbenchs_formula():
    features = random(2, 5, 4).double()
    wanted = [
        sum((cosine(x[t], x[0]) + cosine(x[t], x[t - 1])) / 2 for t in range(1, len(x))) / (len(x) - 1)
        for x in features
    ]
    result = temporal_consistency(features)
    assert min(wanted) < 0.5
    torch.testing.assert_close(result, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(temporal_consistency(features[:, :1].expand_as(features)), torch.ones(2).double())


def test_flicker_and_its_second_difference_are_exact_for_bytes():
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(256, (2, 4, 3, 5, 6), generator=generator, dtype=torch.uint8)
    x = video.double()
    first = torch.stack([(x[:, t + 1] - x[:, t]).abs().mean((1, 2, 3)) for t in range(3)]).mean(0)
    second = torch.stack([(x[:, t + 1] - 2 * x[:, t] + x[:, t - 1]).abs().mean((1, 2, 3)) for t in (1, 2)]).mean(0)
    assert first.min() > 50
    for given in (video, x, video.half()):
        torch.testing.assert_close(flicker(given).double(), first, rtol=1e-6, atol=0)
        torch.testing.assert_close(second_difference_flicker(given).double(), second, rtol=1e-6, atol=0)


def test_smooth_motion_flickers_but_its_second_difference_does_not():
    ramp = torch.arange(64.0)
    moving = torch.stack([(ramp + 3 * t).expand(3, 8, 64) for t in range(5)])[None]  # 3 levels a frame, steadily
    assert flicker(moving).item() == 3
    assert second_difference_flicker(moving).item() == 0
    trembling = moving + torch.tensor([0.0, 1, 0, 1, 0])[:, None, None, None]
    assert second_difference_flicker(trembling).item() == 2


def test_frechet_distance_equals_the_formula_and_is_symmetric():
    a, b = random(40, 3).double() @ random(3, 3, seed=1).double(), random(60, 3, seed=2).double() + 0.7
    covariances = []
    for x in (a, b):
        centred = x - x.mean(0)
        covariances.append(centred.T @ centred / (len(x) - 1))
    # The eigenvalues of C_a C_b are those of C_a^½ C_b C_a^½.
    root = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.sqrt().sum()
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + covariances[0].trace() + covariances[1].trace() - 2 * root
    assert wanted > 1
    assert frechet_distance(a, b) == pytest.approx(wanted.item(), rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(wanted.item(), rel=1e-9)
    assert frechet_distance(a, a) < 1e-9


def test_frechet_distance_of_one_channel_and_of_a_shift_is_known():
    x = random(500, 1).double()
    wanted = (2 * x.std() - x.std()) ** 2 + x.mean() ** 2
    assert frechet_distance(x, 2 * x) == pytest.approx(wanted.item(), rel=1e-9)
    assert frechet_distance(x, x + 3) == pytest.approx(9, rel=1e-9)
    constant = torch.zeros(8, 3)  # a covariance of zeros has a root, too
    assert frechet_distance(constant, constant + 2) == pytest.approx(12)


def test_route_iou_counts_labelled_tokens():
    labels = torch.tensor([[0, 0, 1, 1, 2, IGNORED], [0, 1, 2, 3, 3, IGNORED]])  # 3 is no component here
    taken = torch.tensor([[0, 1, 1, 1, 2, 0], [0, 0, 2, 2, 1, 1]])
    weights = torch.nn.functional.one_hot(taken, 3).transpose(1, 2).float()
    # Component 0: right in 2 of the 3 that show it, and taken once more. 1: 2 of 3, once more. 2: 2 of 2.
    torch.testing.assert_close(route_iou(weights, labels), torch.tensor([2 / 4, 2 / 4, 1.0], dtype=torch.float64))
    with_background = torch.nn.functional.pad(weights, (0, 0, 0, 1))
    with_background[1, :, 3] = torch.tensor([0.0, 0, 0, 1])  # one of the two tokens of no component is left alone
    wanted = torch.tensor([2 / 4, 2 / 5, 1.0, 1 / 2], dtype=torch.float64)
    torch.testing.assert_close(route_iou(with_background, labels), wanted)


def test_route_iou_of_perfect_and_of_absent_routes():
    labels = torch.tensor([[0, 2, 2, IGNORED]])
    weights = torch.nn.functional.one_hot(labels.clamp(min=0), 4).transpose(1, 2).double()
    iou = route_iou(weights, labels)
    assert iou[[0, 2]].tolist() == [1, 1]
    assert iou[[1, 3]].isnan().all()


def test_route_iou_leaves_out_the_label_that_the_data_leaves_open_or_the_one_that_is_named():
    labels = torch.tensor([[0, 0, 1, IGNORED]])
    weights = torch.nn.functional.one_hot(torch.tensor([[0, 1, 1, 0]]), 2).transpose(1, 2).float()
    wanted = torch.tensor([1 / 2, 1 / 2], dtype=torch.float64)
    torch.testing.assert_close(route_iou(weights, labels), wanted)
    counted = torch.tensor([[0, 0, 1, 0]])
    assert not torch.equal(route_iou(weights, counted), wanted)
    for ignore_index in (-1, 1000):
        renamed = labels.masked_fill(labels == IGNORED, ignore_index)
        torch.testing.assert_close(route_iou(weights, renamed, ignore_index=ignore_index), wanted)


def test_bootstrap_interval_of_independent_values_is_that_of_the_normal_approximation():
    values = random(400) + 3
    mean, low, high = bootstrap_interval(values)
    error = values.std().item() / 20
    assert mean == pytest.approx(values.mean().item(), abs=1e-6)
    assert low == pytest.approx(mean - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.2 * error)
    narrow = bootstrap_interval(values, confidence=0.5)
    assert low < narrow.low < mean < narrow.high < high
    assert bootstrap_interval(values) == (mean, low, high)
    assert bootstrap_interval(values, seed=1) != (mean, low, high)


def test_bootstrap_interval_draws_whole_groups():
    people = random(50)
    values, groups = people.repeat_interleave(8), torch.arange(50).repeat_interleave(8) * 1000
    alone, together, once = bootstrap_interval(values), bootstrap_interval(values, groups), bootstrap_interval(people)
    # Eight equal values of a person say no more than one.
    assert alone.high - alone.low < 0.5 * (together.high - together.low)
    assert together == pytest.approx(once)
    uneven = bootstrap_interval(torch.tensor([0.0, 0, 0, 1]), torch.tensor([5, 5, 5, 9]))
    assert (uneven.mean, uneven.low, uneven.high) == (0.25, 0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: face_similarity(random(2, 5), random(2, 5)), r"\(2, 5\), but must be floating point of \(videos"),
        (
            lambda: face_similarity(random(2, 3, 5), random(1, 5)),
            r"\(1, 5\), but embeddings of \(2, 3, 5\) need \(2, 5",
        ),
        (lambda: face_similarity(random(2, 3, 5), random(2, 5), torch.ones(2, 3)), r"float32 of \(2, 3\), but .* bool"),
        (lambda: temporal_consistency(random(2, 1, 5)), "1 frames, but .* at least 2"),
        (lambda: temporal_consistency(torch.ones(2, 3, 5, dtype=torch.long)), "int64 of shape .* floating point"),
        (lambda: flicker(random(4, 3, 5, 6)), r"\(4, 3, 5, 6\), but must be"),
        (lambda: second_difference_flicker(random(1, 2, 3, 5, 6)), "at least 3 frames"),
        (lambda: frechet_distance(random(9, 3), random(9, 4)), r"\(9, 3\) and \(9, 4\)"),
        (lambda: frechet_distance(random(9, 3), random(3, 3)), "3 samples of 3 channels .* at least 4"),
        (lambda: frechet_distance(random(9, 3), random(9, 3) / 0), "not finite"),
        (lambda: route_iou(random(1, 6, 8), torch.zeros(1, 7).long()), r"\(1, 7\) for weights of \(1, 6, 8\)"),
        (
            lambda: route_iou(random(1, 6, 8), torch.full((1, 8), -1)),
            "labels holds -1, but no label is negative except ignore_index, -100",
        ),
        (lambda: bootstrap_interval(random(0)), r"\(0,\), but must be \(n,\)"),
        (lambda: bootstrap_interval(random(3), torch.zeros(2)), r"\(2,\) for values of \(3,\)"),
        (lambda: bootstrap_interval(random(3), confidence=95), "confidence is 95, but must lie between 0 and 1"),
        (lambda: bootstrap_interval(random(3), confidence=0.0), "confidence is 0.0, but must lie between 0 and 1"),
        (lambda: bootstrap_interval(random(3), samples=0), "samples is 0, but must be a whole number of at least 1"),
        (lambda: bootstrap_interval(random(3), samples=2.5), "samples is 2.5, but must be a whole number"),
        (lambda: bootstrap_interval(torch.tensor([1.0, math.nan])), "1 of 2 values are not finite"),
    ],
)
def test_wrong_inputs_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
