"""The permutation test against its definition written out, and that it sees what is given."""

import pytest
import torch

from infoprune.entropy import gram, joint_entropy, label_gram, permutation_test
from infoprune.errors import InputError


def draw(n=36, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    maps = torch.randn(5, n, 4, generator=generator, dtype=torch.float64)
    maps[:3] += 2 * torch.randn(3, 3, 4, generator=generator, dtype=torch.float64)[:, labels]
    return maps, labels


def written_out(maps, labels, order, given, m, alpha, width, permutations, seed):
    """I(Y; R | S, f) = S(Y,S,f) - S(S,f) - S(Y,S,f,R) + S(S,f,R), f as it is and shuffled."""
    K, Y = gram(maps, width=width), label_gram(labels)
    P = [one for others in given for one in gram(others, width=width)]
    selected, rest = [*P, *(K[i] for i in order[: m - 1])], [K[i] for i in order[m:]]

    def entropy(*some):
        return float(joint_entropy(*some, alpha=alpha))

    def left(f):
        known = entropy(Y, *selected, f) - entropy(*selected, f)
        return known - entropy(Y, *selected, f, *rest) + entropy(*selected, f, *rest)

    # The test shuffles the samples once they are sorted by class.
    by_class = torch.sort(labels, stable=True).indices
    generator = torch.Generator().manual_seed(seed)
    tested = K[order[m - 1]][by_class][:, by_class]
    back = torch.argsort(by_class)
    observed = left(K[order[m - 1]])
    found = 0
    for _ in range(permutations):
        shuffle = torch.randperm(len(labels), generator=generator)
        found += left(tested[shuffle][:, shuffle][back][:, back]) <= observed
    return found / permutations


@pytest.mark.parametrize("alpha", [1.01, 2.0])
@pytest.mark.parametrize("conditioned", [False, True])
def test_it_is_its_definition(alpha, conditioned):
    maps, labels = draw()
    given = [draw(seed=7)[0][:2]] if conditioned else []
    order, width = [2, 0, 3, 1, 4], 4.0
    test = permutation_test(maps, labels, order, given, alpha=alpha, width=width, permutations=20, seed=3)
    for m in (1, 3, 5):
        assert test(m) == written_out(maps, labels, order, given, m, alpha, width, 20, 3)


def test_it_tells_a_useful_map_from_noise():
    maps, labels = draw(n=90)
    test = permutation_test(maps, labels, [0, 1, 2, 3, 4], width=8.0)
    assert test(1) < 0.05
    assert permutation_test(maps, labels, [3, 0, 1, 2, 4], width=8.0)(1) > 0.05


def test_what_is_given_is_respected():
    maps, labels = draw(n=90)
    # Of what a copy of the labels says already, no map adds anything.
    said = torch.nn.functional.one_hot(labels).double()[None]
    alone = permutation_test(maps, labels, [0, 1, 2, 3, 4], width=2.0)
    given = permutation_test(maps, labels, [0, 1, 2, 3, 4], [100 * said], width=2.0)
    assert alone(1) < 0.05
    assert given(1) > 0.5


def test_seeds_and_bad_input():
    maps, labels = draw()
    order = [0, 1, 2, 3, 4]
    one, same = (permutation_test(maps, labels, order, width=4.0, seed=1) for _ in range(2))
    assert [one(m) for m in order[1:]] == [same(m) for m in order[1:]]
    with pytest.raises(InputError, match="at least one permutation"):
        permutation_test(maps, labels, order, permutations=0)
    with pytest.raises(InputError, match="no map 6"):
        one(6)


def test_the_geometric_mean_joint_is_taken_too():
    maps, labels = draw(n=90)
    test = permutation_test(maps, labels, [0, 1, 2, 3, 4], joint="mean", alpha=2.0)
    assert test(1) < 0.05
