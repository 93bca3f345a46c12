"""Train only the keys of a frozen ViT on handwritten digits.

A ViT of DINOv2's form with random weights, small, and scikit-learn's 8 x 8 digits. Its
body stays as it is: once only a linear head is trained on what it makes of the images,
and once the head and a manifold key in each attention.

    python docs/examples/keys_on_digits.py [--epochs 20]
"""

import argparse
import time

import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import mmmanikey

KEY = dict(type='VanillaK', num_charts=8, residual=True)


def digits() -> tuple[Tensor, Tensor]:
    """1,797 images (3, 16, 16) of unit variance, and their classes, shuffled."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None]
    images = F.interpolate(images, scale_factor=2, mode='bilinear').repeat(1, 3, 1, 1)
    order = torch.randperm(len(images))
    images = (images - images.mean()) / images.std()
    return images[order], torch.tensor(data.target)[order]


def frozen_vit() -> nn.Module:
    """A small DINOv2 whose only weights that learn are those of its linear head."""
    model = timm.create_model(
        'vit_small_patch14_dinov2',
        img_size=16,
        patch_size=4,
        embed_dim=64,
        depth=4,
        num_heads=4,
        init_values=1.0,
        num_classes=10,
    )
    model.requires_grad_(False)
    model.head.requires_grad_()
    return model


def train(model: nn.Module, images: Tensor, classes: Tensor, epochs: int) -> float:
    """Train head and keys on the first 1,200 images; accuracy on the others."""
    groups = [dict(params=model.head.parameters(), lr=1e-2)]
    if keys := mmmanikey.key_parameters(model):
        groups.append(dict(params=keys, lr=2e-3))
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    rates = [group['lr'] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, epochs * 19)
    for _ in range(epochs):
        for batch in torch.randperm(1200).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), classes[batch]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        found = model.eval()(images[1200:]).argmax(1)
    return (found == classes[1200:]).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--epochs', type=int, default=20, help='default: 20')
    parser.add_argument('--seed', type=int, default=0, help='default: 0')
    args = parser.parse_args()
    for name in ('linear head', 'linear head and keys'):
        torch.manual_seed(args.seed)
        images, classes = digits()
        model = frozen_vit()
        if name.endswith('keys'):
            print(mmmanikey.insert_keys(model, KEY))
        learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
        start = time.perf_counter()
        accuracy = train(model, images, classes, args.epochs)
        seconds = time.perf_counter() - start
        print(
            f'{name}: {learning} weights learn, {accuracy:.1%} right, {seconds:.0f} s'
        )


if __name__ == '__main__':
    main()
