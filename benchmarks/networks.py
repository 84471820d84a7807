"""Every network: parameters, layers, activation sites, FLOPs of a forward pass, time to trace and compile a train step.

python benchmarks/networks.py    # a table on the terminal, the same as JSON in results/benchmarks/networks.json
"""

import time

import jax
import jax.numpy as jnp
from flax import linen as nn
from race import RESULTS, file_of, write_record

from relujax.data import Data, UnitRange
from relujax.environment import environment
from relujax.layers import count, is_convolutional
from relujax.models.alexnet import AlexNet
from relujax.models.deep_dense import DeepDense
from relujax.models.dfn_mr import DFNMR
from relujax.models.elu_net import ELUNet11, ELUNet18, ELUNetImageNet
from relujax.models.lenet import LeNet
from relujax.models.mlp import MLP, Autoencoder
from relujax.models.mobilenet import MobileNet, MobileNetV2
from relujax.models.plain import Plain
from relujax.models.preact_resnet import PreActResNet
from relujax.models.resnet import ResNet
from relujax.models.resnet_elu import ResNetELU
from relujax.models.resnet_v1_keras import ResNetV1Keras
from relujax.models.senet import SENet
from relujax.models.shufflenet import ShuffleNet, ShuffleNetV2
from relujax.models.squeezenet import SqueezeNet
from relujax.recipe import Constant, Epochs, Recipe, Sgd, make_optimizer
from relujax.train import CPU_CONVOLUTIONS, Split, init_state, train_step
from relujax.trial import Trial

CIFAR, MNIST, IMAGENET = (32, 32, 3), (28, 28, 1), (224, 224, 3)
NETWORKS: list[tuple[str, nn.Module, tuple[int, int, int]]] = [
    ("MLP 8×128", MLP(8, 128, 10, "elu"), MNIST),
    ("MLP 5×256", MLP(5, 256, 10, "elu"), MNIST),
    ("Autoencoder", Autoencoder("elu"), MNIST),
    ("DeepDense 15", DeepDense(15, 10), MNIST),
    ("DeepDense 25", DeepDense(25, 10), MNIST),
    *((f"Plain {depth}", Plain(depth, 100), CIFAR) for depth in (38, 62, 84)),
    *((f"ResNet {depth}", ResNet(depth, 10), CIFAR) for depth in (20, 110)),
    *((f"PreActResNet {depth}", PreActResNet(depth, 10), CIFAR) for depth in (62, 110, 164)),
    *((f"PreActResNet {depth} bottleneck", PreActResNet(depth, 10, "bottleneck"), CIFAR) for depth in (110, 164)),
    ("DFNMR 110", DFNMR(110, 10), CIFAR),
    *((f"ResNetELU {depth}", ResNetELU(depth, 10), CIFAR) for depth in (20, 110)),
    ("ELUNet11", ELUNet11(100), CIFAR),
    ("ELUNet18", ELUNet18(100), CIFAR),
    ("ELUNetImageNet", ELUNetImageNet(1000), IMAGENET),
    ("LeNet", LeNet(10), CIFAR),
    ("AlexNet", AlexNet(10), CIFAR),
    ("MobileNet", MobileNet(10), CIFAR),
    ("MobileNetV2", MobileNetV2(10), CIFAR),
    ("SqueezeNet", SqueezeNet(10), CIFAR),
    ("ShuffleNet", ShuffleNet(10), CIFAR),
    ("ShuffleNetV2", ShuffleNetV2(10), CIFAR),
    ("SENet 18", SENet(18, 10), CIFAR),
    ("SENet 34", SENet(34, 10), CIFAR),
    ("ResNetV1Keras 20", ResNetV1Keras(20, 10), CIFAR),
    ("ResNetV1Keras 32", ResNetV1Keras(32, 10), CIFAR),
]


def measure(name: str, model: nn.Module, shape: tuple[int, int, int]) -> dict:
    """Counts by tracing; times of one cold trace and compile of a train step with 64 images."""
    counts = count(model, (1, *shape))

    def forward(images: jax.Array, variables: dict) -> jax.Array:
        return model.apply(variables, images, train=False)

    one = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(lambda images: model.init(jax.random.key(0), images, train=False), one)
    cost = jax.jit(forward).lower(one, variables).cost_analysis()
    loss = "squared_error" if isinstance(model, Autoencoder) else "cross_entropy"
    recipe = Recipe(
        length=Epochs(1),
        batch_size=64,
        optimizer=Sgd(momentum=0.9),
        schedule=Constant(0.1),
        weight_decay=1e-4,
        loss=loss,
    )
    trial = Trial(model=model, data=Data(name="cifar10", normalize=UnitRange()), recipe=recipe)
    optimizer = make_optimizer(recipe, 1)
    images = jax.ShapeDtypeStruct((64, *shape), jnp.uint8)
    batch = Split(images, jax.ShapeDtypeStruct((64,), jnp.int32))
    state = jax.eval_shape(lambda images: init_state(trial, optimizer, jnp.array(0), images), images)
    on_cpu = jax.default_backend() == "cpu"
    options = CPU_CONVOLUTIONS if on_cpu and is_convolutional(model, (1, *shape)) else None

    def step(state, batch, seed):
        return train_step(trial, optimizer, state, batch, jax.random.key(seed))

    begun = time.perf_counter()
    lowered = jax.jit(step, compiler_options=options).lower(state, batch, jax.ShapeDtypeStruct((), jnp.int32))
    traced = time.perf_counter()
    lowered.compile()
    compiled = time.perf_counter()
    return {
        "network": name,
        "parameters": counts.parameters,
        "layers": counts.layers,
        "sites": counts.sites,
        "forward_mflop": round(cost["flops"] / 1e6, 2),
        "trace_seconds": round(traced - begun, 2),
        "compile_seconds": round(compiled - traced, 2),
    }


if __name__ == "__main__":
    rows = []
    print("| network | parameters | layers | sites | forward MFLOP | trace s | compile s |\n|" + " --- |" * 7)
    for network in NETWORKS:
        row = measure(*network)
        rows.append(row)
        print(
            "| " + " | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()) + " |"
        )
    write_record(file_of("networks", RESULTS), {"environment": environment(), "rows": rows})
