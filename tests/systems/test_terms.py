"""Tests of weighted sums of loss terms."""

from __future__ import annotations

import pytest
import torch

from fastmunit import functional
from fastmunit.config import DiscriminatorConfig
from fastmunit.functional.gan_loss import MAX_MAPS
from fastmunit.nn.networks.discriminators import MsImageDis
from fastmunit.systems.parts.losses import (
    Adversarial,
    discriminator_adversarial,
    discriminator_loss,
    generator_adversarial,
    generator_loss,
)
from fastmunit.systems.parts.terms import L1, Term, adversarial_sum, weighted_sum


def test_a_sum_is_its_formula_and_terms_are_unweighted() -> None:
    x, y = (torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in ([1.0, 4.0], [2.0, 2.0]))
    terms = [Term("adv", 2.0, x.sum()), Term("first", 10.0, L1(x, y)), Term("second", 0.0, L1(x, 3 * y))]
    total, values, outputs = weighted_sum(terms, start=torch.tensor(0.5, dtype=torch.float64))
    total.backward()
    assert float(total.detach()) == 0.5 + 2 * 5 + 10 * 1.5
    assert {name: float(value) for name, value in values.items()} == {"adv": 5, "first": 1.5, "second": 3.5}
    assert not any(value.requires_grad for value in values.values())
    assert outputs == ()
    assert x.grad is not None and x.grad.tolist() == [2 - 5, 2 + 5]


def test_l1_terms_are_added_first() -> None:
    """The order of a floating-point sum does not depend on where the L1 terms are in the table."""
    large = torch.tensor(1e8)
    difference = Term("recon", 1.0, L1(torch.ones(3), torch.zeros(3)))
    total = weighted_sum([Term("plus", 1.0, large), Term("minus", -1.0, large), difference]).total
    assert float(total) == 0.0 != float((large - large) + 1)


def test_an_empty_sum_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one term"):
        weighted_sum([])


@pytest.mark.parametrize("gan_type", ["lsgan", "nsgan", "hinge"])
@pytest.mark.parametrize("norm", ["none", "bn"])
def test_adversarial_terms_are_the_losses_of_the_discriminators(norm: str, gan_type: str) -> None:
    """With batch norm, fake and real images are two batches. The sum has the gradients of the formulas, too."""
    config = DiscriminatorConfig(dim=4, n_layer=2, num_scales=2, norm=norm, gan_type=gan_type)
    networks = [MsImageDis(3, config).double() for _ in range(2)]
    images = [torch.rand(2, 3, 32, 32, dtype=torch.float64) for _ in range(4)]
    weights, parameters = (0.7, 3.0), [p for dis in networks for p in dis.parameters()]
    pairs = [(images[0], images[1]), (images[2], images[3])]
    terms, parts = [], {}
    for name, dis, weight, (fake, real) in zip("ab", networks, weights, pairs, strict=True):
        terms.append(Term(name, weight, discriminator_adversarial(dis, fake, real)))
        terms.append(Term(f"gen_{name}", 2.0, generator_adversarial(dis, fake)))
        fakes, reals = dis(fake), dis(real)
        parts |= {name: discriminator_loss(fakes, reals, gan_type), f"gen_{name}": generator_loss(fakes, gan_type)}
        parts |= {f"{name}/{k}": discriminator_loss(fakes[k : k + 1], reals[k : k + 1], gan_type) for k in range(2)}
        parts |= {f"gen_{name}/{k}": generator_loss(fakes[k : k + 1], gan_type) for k in range(2)}
    expected = 0.5 + sum(term.weight * parts[term.name] for term in terms)
    for implementation in ("auto", "reference"):
        with functional.use_implementation(implementation):
            total, values, _ = weighted_sum(terms, start=torch.tensor(0.5, dtype=torch.float64))
            halved = adversarial_sum(terms, factor=0.5)
        torch.testing.assert_close(total, expected)
        torch.testing.assert_close(values, {name: part.detach() for name, part in parts.items()})
        torch.testing.assert_close(halved.total, (expected - 0.5) / 2)
        torch.testing.assert_close(halved.terms, {name: part.detach() / 2 for name, part in parts.items()})
        gradients = torch.autograd.grad(total, parameters, retain_graph=True)
        torch.testing.assert_close(gradients, torch.autograd.grad(expected, parameters, retain_graph=True))


def test_adversarial_terms_of_any_number_and_of_several_losses() -> None:
    """More maps than one call takes, terms with different numbers of scales, and discriminators with another loss."""
    x = torch.randn(2, 1, 3, 3)
    many = [Term(f"t{k}", float(k), Adversarial([[(x, "real")]] * (1 + k % 3), "lsgan")) for k in range(MAX_MAPS)]
    terms = [*many, Term("other", 2.0, Adversarial([[(x, "fake_real")]], "hinge"))]
    with functional.use_implementation("reference"):
        expected, parts, _ = weighted_sum(terms)
    total, values, _ = weighted_sum(terms)
    torch.testing.assert_close((total, values), (expected, parts))
    assert values.keys() == parts.keys() and len(values) > 3 * MAX_MAPS - 3
    with pytest.raises(TypeError, match="expected the value of l1 to be Adversarial, got L1"):
        adversarial_sum([Term("l1", 1.0, L1(x, x))])
