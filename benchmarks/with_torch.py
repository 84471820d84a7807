"""The benchmark's network trained by PyTorch, eagerly and compiled: no DataLoader, all images as one tensor.

Of the ways tried, these are the fastest: float images instead of uint8 ones, and the fused form of SGD.
"""

import logging
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {"elu": nn.ELU, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def make_model(net: dict) -> nn.Sequential:
    """`depth` hidden layers of `width` units, He-uniform with bias 0, then logits."""
    widths = [28 * 28] + net["depth"] * [net["width"]]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[net["activation"]]()]
    model = nn.Sequential(*layers, nn.Linear(widths[-1], 10))
    for layer in _dense(model):
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return model


def make_step(model: nn.Module, learning_rate: float, *, compiled: bool = False) -> Step:
    """One step; loss and error are means over the batch, measured before it."""
    optimizer = torch.optim.SGD(model.parameters(), learning_rate, fused=True)

    def train_step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach(), (logits.argmax(-1) != labels).float().mean()

    return torch.compile(train_step) if compiled else train_step


def train_epoch(
    step: Step, images: Tensor, labels: Tensor, batches: Tensor | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One pass over `batches`, indices (steps, batch_size); loss and error of every step."""
    metrics = [torch.stack(step(images[chosen], labels[chosen])) for chosen in torch.as_tensor(batches)]
    losses, errors = torch.stack(metrics, dim=1).numpy()
    return losses, errors


def tensors(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """uint8 images (N, H, W, C) → float32 in [0, 1], (N, H·W·C); labels as int64."""
    flat = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))
    return flat.div_(255), torch.from_numpy(labels.astype(np.int64))


def load_params(model: nn.Module, params: dict) -> None:
    """Copies the params of a Flax MLP (dense1 … head) into the model."""
    with torch.no_grad():
        for layer, name in zip(_dense(model), _names(model)):
            layer.weight.copy_(torch.tensor(params[name]["kernel"].T))
            layer.bias.copy_(torch.tensor(params[name]["bias"]))


def dump_params(model: nn.Module) -> dict:
    """The model's weights as the params of a Flax MLP."""
    arrays = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in _dense(model)]
    return {name: {"kernel": kernel, "bias": bias} for name, (kernel, bias) in zip(_names(model), arrays)}


def contender(
    images: np.ndarray, labels: np.ndarray, net: dict, *, seed: int, threads: int, compiled: bool
) -> Callable[[], float]:
    """An epoch of one run on `threads` threads; returns its mean loss."""
    torch.set_num_threads(threads)
    if compiled:
        torch._inductor.config.compile_threads = 1  # no pool of compilers beside the contenders
        torch._logging.set_logs(dynamo=logging.ERROR)
    torch.manual_seed(seed)
    step = make_step(make_model(net), net["learning_rate"], compiled=compiled)
    data, size = tensors(images, labels), net["batch_size"]

    def epoch() -> float:
        order = torch.randperm(len(images))[: len(images) // size * size]
        losses, _ = train_epoch(step, *data, order.view(-1, size))
        return float(losses.mean())

    return epoch


def _dense(model: nn.Module) -> list[nn.Linear]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)]


def _names(model: nn.Module) -> list[str]:
    return [f"dense{layer}" for layer in range(1, len(_dense(model)))] + ["head"]
