"""trainer.wide: figures straight to ratings, from what a row has."""

import pytest
import torch
from torch import Tensor

from trainer.wide import Wide


def wide(*, dropout: float = 0.0) -> Wide:
    """As after training."""
    torch.manual_seed(0)
    made = Wide(
        {"audio": [(5.0, 2.0)] * 3, "midi": [(0.0, 1.0)] * 2}, dimensions=4, dropout=dropout
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def figures() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {name: torch.randn(3, k, generator=rng) for name, k in (("audio", 3), ("midi", 2))}


def present(audio: list[bool], midi: list[bool]) -> dict[str, Tensor]:
    return {"audio": torch.tensor(audio), "midi": torch.tensor(midi)}


def test_a_row_is_rated_by_the_mean_of_what_it_has():
    made, x = wide(), figures()
    rated = made(x, present([True, True, False], [True, False, True]))
    heard, read = made.paths["audio"](x["audio"]), made.paths["midi"](x["midi"])
    torch.testing.assert_close(rated[0], (heard[0] + read[0]) / 2)
    torch.testing.assert_close(rated[1], heard[1])
    torch.testing.assert_close(rated[2], read[2])


def test_a_row_that_has_nothing_is_left_to_the_rest_of_the_model():
    nothing = [False] * 3
    rated = wide()(figures(), present(nothing, nothing))
    assert torch.equal(rated, torch.zeros(3, 4))


def test_it_begins_at_0():
    made = Wide({"midi": [(0.0, 1.0)] * 2}, dimensions=4, dropout=0.0)
    there = {"midi": torch.ones(3, dtype=torch.bool)}
    assert not made(figures(), there).any()


def test_figures_are_standardised_by_the_scale_that_a_checkpoint_carries():
    made, other = wide(), wide()
    every = {"audio": torch.ones(3, dtype=torch.bool)}
    x = torch.randn(3, 3)
    plain = made.paths["audio"][2](x)
    del made.paths["midi"], other.paths["midi"]
    torch.testing.assert_close(made({"audio": 2 * x + 5}, every), plain)
    other.paths["audio"][0].centre[:] = 9.0
    other.load_state_dict(made.state_dict())
    torch.testing.assert_close(other({"audio": 2 * x + 5}, every), plain)


@pytest.mark.parametrize("training", [True, False])
def test_figures_are_dropped_in_training_alone_and_of_all_nothing_is_learned(training: bool):
    made = wide(dropout=1.0).train(training)
    made(figures(), present([True] * 3, [True] * 3)).sum().backward()
    learned = [parameter.grad.any().item() for parameter in made.parameters()]  # type: ignore
    assert learned == [not training] * 2


def test_figures_of_a_clip_that_has_next_to_nothing_count_as_far_and_no_farther():
    made = wide()
    del made.paths["midi"]
    every = {"audio": torch.ones(1, dtype=torch.bool)}
    far, farther = (made({"audio": torch.full((1, 3), x)}, every) for x in (5.0 + 2 * 4, 1e6))
    assert far.any()
    torch.testing.assert_close(far, farther)
