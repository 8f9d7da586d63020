import pytest
import torch
from pydantic import ValidationError

from built_methods import built
from matrices import both_orientations, covariance, layer_of, random

R = 4


def layer(out, into, r=R, seed=7, name=None):
    made = layer_of(random(out, into), r, label_covariance=covariance(into, seed))
    return made if name is None else type(made)(name, *list(vars(made).values())[1:])


def with_variances(name, *variances):
    C = torch.diag(torch.tensor(variances, dtype=torch.float64))
    return type(layer_of(random(9, len(variances))))(name, random(9, len(variances)), 2, 1.0, label_covariance=C)


@both_orientations
def test_a_holds_the_directions_in_which_inputs_vary_most_and_b_is_zero(out, into):
    seen = layer(out, into)
    factors = built("eva").factors(seen, torch.Generator())
    assert not factors.lora_B.any()
    A = factors.lora_A.double()
    torch.testing.assert_close(A @ A.T, torch.eye(R, dtype=torch.float64), rtol=0, atol=1e-5)
    explained = (A @ seen.label_covariance @ A.T).diagonal()
    torch.testing.assert_close(explained, torch.linalg.eigvalsh(seen.label_covariance).flip(0)[:R], rtol=1e-5, atol=0)


def test_ranks_go_to_the_components_that_explain_most_of_their_layer():
    # shares: a .5 .3 .2 0 0, b .2 each; budget 4, at most 4 a layer
    layers = [with_variances("a", 5, 3, 2, 0, 0), with_variances("b", 1, 1, 1, 1, 1)]
    assert built("eva").ranks(iter(layers)) == {"a": 3, "b": 1}  # a's third ties with b's: the earlier layer first


def test_rho_bounds_the_rank_of_a_layer():
    layers = [with_variances("a", 5, 3, 2, 0, 0), with_variances("b", 1, 1, 1, 1, 1)]
    assert built("eva", rho=1.0).ranks(iter(layers)) == {"a": 2, "b": 2}
    with pytest.raises(ValidationError, match="rho"):
        built("eva", rho=0.5)


def test_a_layer_may_get_nothing_and_the_budget_is_spent():
    # the two large shares of a and b come first, c has only small ones
    layers = [with_variances("a", 6, 4, 0, 0), with_variances("b", 5, 5, 0, 0), with_variances("c", *[1] * 9)]
    ranks = built("eva", rho=3.0).ranks(iter(layers))
    assert sum(ranks.values()) == 6
    assert ranks == {"a": 2, "b": 2, "c": 2}
    fewer = [with_variances("a", 6, 4, 3, 3), with_variances("c", *[1] * 60)]
    assert built("eva", rho=2.0).ranks(iter(fewer)) == {"a": 4, "c": 0}


def test_sizes_of_inputs_do_not_matter_for_ranks():
    small, large = with_variances("a", 5, 3, 2, 1, 1), with_variances("a", 500, 300, 200, 100, 100)
    other = with_variances("b", 2, 2, 2, 2, 2)
    assert built("eva").ranks(iter([small, other])) == built("eva").ranks(iter([large, other]))
