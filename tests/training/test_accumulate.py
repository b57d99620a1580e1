"""A batch in parts gives the gradients of the whole batch, and needs the memory of a part."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from infoprune.training.memory import memory_in_words, step_memory
from infoprune.training.penalties import Parting, make_penalty
from infoprune.training.recipe import Recipe
from infoprune.training.train import make_fabric, train

torch.manual_seed(0)
IMAGES, LABELS = torch.randn(60, 1, 8, 8), torch.arange(60) % 10


def network(norm=nn.Identity):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), norm(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(144, 10)
    )  # fmt: skip


def trained(norm=nn.Identity, **words):
    recipe = Recipe(**{"epochs": 3, "learning_rate": 0.05, "precision": "32-true", **words})
    loader = DataLoader(list(zip(IMAGES, LABELS, strict=True)), batch_size=20, shuffle=True)
    teacher = network() if recipe.distillation else None
    penalty = make_penalty("ufkt", Parting({"0": (0, 1)}, {"0": (2,)}), {}) if words.get("clip") else None
    made = train(network(norm), loader, None, recipe, teacher=teacher, penalty=penalty)
    return torch.cat([value.flatten() for value in made.model.state_dict().values()]), [one.loss for one in made.epochs]


@pytest.mark.parametrize("words", [{}, {"distillation": 0.5}, {"clip": 0.5}, {"label_smoothing": 0.1}], ids=str)
@pytest.mark.parametrize("parts", [2, 3, 20, 64])
def test_a_batch_in_parts_gives_the_weights_of_the_whole_batch(words, parts):
    (whole, losses), (in_parts, others) = trained(**words), trained(accumulate=parts, **words)
    torch.testing.assert_close(in_parts, whole, rtol=1e-4, atol=1e-5)
    assert others == pytest.approx(losses, rel=1e-4)


def test_batch_norm_reads_each_part_alone():
    (whole, _), (in_parts, _) = trained(nn.BatchNorm2d), trained(nn.BatchNorm2d, accumulate=4)
    assert (whole - in_parts).abs().max() > 1e-3


def test_the_memory_is_that_of_what_autograd_keeps():
    model, maps = network(), 8 * 64 + 16 * 9
    found = step_memory(model, IMAGES, 20, Recipe())
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert found.weights == 3 * weights
    # The input, the maps before each ReLU's output, the outputs themselves and the logits.
    assert 4 * (64 + maps) <= found.image <= 4 * (64 + 3 * maps + 10)
    assert found.images == 20
    parts = step_memory(model, IMAGES, 20, Recipe(accumulate=5))
    assert (parts.images, parts.image) == (4, found.image)
    wide = step_memory(model, torch.randn(2, 1, 8, 8), 20, Recipe(momentum=0), teacher=network())
    assert wide.weights == 3 * weights
    half = make_fabric(accelerator="cpu", precision="bf16-mixed")
    big = torch.randn(2, 1, 64, 64)
    convolutions = model[:5]
    whole, rounded = (step_memory(convolutions, big, 20, Recipe(), fabric=one).image for one in (None, half))
    assert rounded < 0.8 * whole


def test_the_network_and_the_random_numbers_are_left_as_they_were():
    model = network(nn.BatchNorm2d)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    said = memory_in_words(model, DataLoader(list(zip(IMAGES, LABELS, strict=True)), 20, shuffle=True), 20, Recipe())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert said.startswith("A training step needs about ")
    assert "--accumulate" not in said


def test_much_memory_comes_with_the_parts_that_need_less():
    class Wide(nn.Module):
        """Keeps 80 MB for an image."""

        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(1), nn.Linear(64, 10)

        def forward(self, images):
            maps = self.norm(images)
            return self.head(maps.flatten(1)) + maps.flatten(1).repeat(1, 312_500).sin().mean(1, keepdim=True)

    said = memory_in_words(Wide(), [(IMAGES, LABELS)], 60, Recipe())
    assert "80 MB for each of 60 images" in said
    assert "With --accumulate 5 it needs about 1.0 GB" in said
    assert "batch norm computes its statistics from 12 images" in said
    assert "--accumulate" not in memory_in_words(Wide(), [(IMAGES, LABELS)], 60, Recipe(accumulate=5))
