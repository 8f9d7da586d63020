"""The recipe of tiny_vit: `python -m bench.model.embedded.pretrain_images FOLDER` makes the shipped checkpoint.

A ViT of 0.3 M parameters (Dosovitskiy et al. 2021, arXiv:2010.11929), 16 patches of 8 x 8 pixels, trained to tell 32
classes of drawn images apart: shapes, textures and signs. Its head is not used afterwards, as every task draws its own.
Takes about 10 minutes on one CPU core. The recipe, its loss and accuracy on images that training has not drawn, and the
checkpoint's hash are written to recipe.json beside the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from bench.model.embedded.drawing import SHAPES, SIZE, TEXTURES, coloured, shape, sign, texture
from bench.model.embedded.fit import Schedule, command_line, fit, write_recipe
from bench.model.embedded.image_items import PRETRAINED_SIGNS

NUM_CLASSES = len(SHAPES) + len(TEXTURES) + len(PRETRAINED_SIGNS)
HELD_OUT_SEED, HELD_OUT_BATCHES = 1, 32


@dataclass(frozen=True, kw_only=True)
class Recipe(Schedule):
    """Everything the checkpoint depends on besides these files and the versions of numpy, torch and transformers."""

    steps: int = 4_000
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05


def vit_config() -> ViTConfig:
    """Four layers of width 96; the feed-forward layers are those that are not square."""
    config = ViTConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=8,
    )
    config.num_labels = NUM_CLASSES
    return config


def image_processor() -> ViTImageProcessorPil:
    """Resizes to the model's pixels, and maps brightness to -1 to 1."""
    half = [0.5, 0.5, 0.5]
    return ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}, image_mean=half, image_std=half)


def draw(random: np.random.RandomState) -> tuple[np.ndarray, int]:
    """An image of any class, bytes (SIZE, SIZE, 3), and its class."""
    label = int(random.randint(NUM_CLASSES))
    if label < len(SHAPES):
        share = shape(random, label)
    elif label < len(SHAPES) + len(TEXTURES):
        share = texture(random, label - len(SHAPES))
    else:
        share = sign(random, PRETRAINED_SIGNS[label - len(SHAPES) - len(TEXTURES)])
    return coloured(random, share), label


def batches(recipe: Recipe, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless pixel values (batch, 3, SIZE, SIZE), as `image_processor` makes them, and classes (batch,)."""
    random = np.random.RandomState([recipe.seed, seed])
    while True:
        images, labels = zip(*(draw(random) for _ in range(recipe.batch_size)), strict=True)
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        yield pixels, torch.tensor(labels)


@torch.no_grad()
def evaluate(model: ViTForImageClassification, recipe: Recipe) -> tuple[float, float]:
    """Mean loss in nats an image, and accuracy, on images that training has not drawn."""
    held_out = batches(recipe, HELD_OUT_SEED)
    found = torch.zeros(2, dtype=torch.float64)
    for _ in range(HELD_OUT_BATCHES):
        pixels, labels = next(held_out)
        logits = model(pixel_values=pixels).logits
        right = (logits.argmax(dim=1) == labels).double().mean()
        found += torch.stack([cross_entropy(logits, labels).double(), right])
    loss, accuracy = (found / HELD_OUT_BATCHES).tolist()
    return loss, accuracy


def pretrain(recipe: Recipe, folder: Path) -> tuple[float, float]:
    """Trains the model and writes it, with its image processor, to `folder`; returns what `evaluate` does."""
    torch.manual_seed(recipe.seed)
    model = ViTForImageClassification(vit_config())
    fit(model, recipe, ({"pixel_values": pixels, "labels": labels} for pixels, labels in batches(recipe, 0)))
    loss_and_accuracy = evaluate(model, recipe)
    model.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    eval_loss, accuracy = (round(value, 4) for value in loss_and_accuracy)
    write_recipe(folder, asdict(recipe), eval_loss=eval_loss, accuracy=accuracy)
    return loss_and_accuracy


def main() -> None:
    """The command line."""
    args = command_line(__doc__, Recipe).parse_args()
    loss, accuracy = pretrain(Recipe(seed=args.seed, steps=args.steps), args.folder)
    print(f"eval loss {loss:.4f} nats an image, accuracy {accuracy:.4f} -> {args.folder}")


if __name__ == "__main__":
    main()
