"""trainer.losses: what is missing or padding has no part in loss or gradient."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed

from trainer.losses import UncertaintyWeighting, masked_mae, masked_mse

ROOT = Path(__file__).parent.parent
NAN = float("nan")


def loss_and_gradient(
    target: Tensor,
    weight: Tensor,
    prediction: Tensor,
    measure: Callable[..., Tensor] = masked_mse,
) -> tuple[Tensor, Tensor]:
    prediction = prediction.clone().requires_grad_()
    loss = measure(prediction, target, weight=weight)
    (gradient,) = torch.autograd.grad(loss, prediction)
    return loss.detach(), gradient


def test_loss_is_the_mean_over_the_labels_that_exist():
    target = torch.tensor([[1.0, NAN], [2.0, 3.0]])
    loss, gradient = loss_and_gradient(target, torch.ones(2), torch.zeros(2, 2))
    assert loss == pytest.approx((1 + 4 + 9) / 3)
    torch.testing.assert_close(gradient, torch.tensor([[-2.0, 0.0], [-4.0, -6.0]]) / 3)


def test_rows_of_weight_zero_change_nothing_whatever_they_hold():
    target, weight = torch.tensor([[1.0], [NAN], [5.0]]), torch.tensor([1.0, 0.0, 0.0])
    prediction = torch.tensor([[0.0], [NAN], [float("inf")]])
    loss, gradient = loss_and_gradient(target, weight, prediction)
    assert loss == 1.0
    assert gradient.tolist() == [[-2.0], [0.0], [0.0]]


def test_weights_weigh():
    target, weight = torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 3.0])
    loss, _ = loss_and_gradient(target, weight, torch.zeros(2, 1))
    assert loss == pytest.approx((1 * 1 + 9 * 3) / 4)


def test_no_label_at_all_is_a_loss_of_zero_with_gradients_of_zero():
    loss, gradient = loss_and_gradient(torch.full((2, 3), NAN), torch.ones(2), torch.ones(2, 3))
    assert loss == 0.0
    assert not gradient.any()


def test_mae_leaves_out_missing_labels():
    assert masked_mae(torch.zeros(2, 2), torch.tensor([[1.0, NAN], [NAN, 3.0]])) == 2.0


def test_uncertainty_weighs_each_dimension_and_leaves_out_those_without_labels():
    target, weight = torch.tensor([[1.0, NAN, 2.0], [3.0, NAN, NAN]]), torch.tensor([1.0, 1.0])
    weighting = UncertaintyWeighting(3)
    s = torch.tensor([0.5, -1.0, 1.0])
    weighting.log_variance.data.copy_(s)
    loss = weighting(torch.zeros(2, 3), target, weight=weight)
    terms = [0.5 * ((1 + 9) / 2 * torch.exp(-s[0]) + s[0]), 0.5 * (4 * torch.exp(-s[2]) + s[2])]
    torch.testing.assert_close(loss, (terms[0] + terms[1]) / 2)
    loss.backward()
    gradient = weighting.log_variance.grad
    assert gradient is not None
    assert gradient[1] == 0
    torch.testing.assert_close(gradient[0], 0.25 * (1 - 5 * torch.exp(-s[0])))
    nothing = weighting(torch.zeros(2, 3), target, weight=torch.zeros(2))
    nothing.backward()
    assert nothing == 0
    assert torch.isfinite(weighting.log_variance.grad).all()


RANK = """
import sys, torch
from torch import distributed
from trainer.losses import UncertaintyWeighting, masked_mse
rank, folder = int(sys.argv[1]), sys.argv[2]
store = f"file://{folder}/store"
distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
target, weight = (x[2 * rank : 2 * rank + 2] for x in torch.load(f"{folder}/batch.pt"))
prediction = torch.zeros(2, 2, requires_grad=True)
measure = UncertaintyWeighting(2) if sys.argv[3] == "uncertainty" else masked_mse
loss = measure(prediction, target, weight=weight)
loss.backward()
torch.save((loss.detach(), prediction.grad), f"{folder}/{rank}.pt")
distributed.destroy_process_group()
"""


@pytest.mark.skipif(not distributed.is_available(), reason="torch without distributed")
@pytest.mark.parametrize("loss", ["mse", "uncertainty"])
def test_gradients_averaged_over_ranks_are_those_of_the_global_batch(loss: str, tmp_path: Path):
    target = torch.tensor([[1.0, NAN], [NAN, NAN], [2.0, 3.0], [4.0, NAN]])
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0])
    torch.save((target, weight), tmp_path / "batch.pt")
    command = [sys.executable, "-c", RANK]
    ranks = [subprocess.Popen([*command, str(r), str(tmp_path), loss], cwd=ROOT) for r in range(2)]
    assert [rank.wait(60) for rank in ranks] == [0, 0]
    (loss0, first), (loss1, second) = (torch.load(tmp_path / f"{r}.pt") for r in range(2))
    measure = UncertaintyWeighting(2) if loss == "uncertainty" else masked_mse
    whole, gradient = loss_and_gradient(target, weight, torch.zeros(4, 2), measure=measure)
    torch.testing.assert_close((loss0 + loss1) / 2, whole)
    torch.testing.assert_close(torch.cat([first, second]) / 2, gradient)
