"""The same weights and images through relujax and through PyTorch: the same logits, gradients and BN statistics.

Both compute in float64, where no difference can pass for rounding. Weights, logits and PyTorch's results are rounded to
float32 once, and agreement is asked to that, element by element.
"""

from functools import partial

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
import torch
from torch import nn

from relujax.interop import from_torch
from relujax.models.dfn_mr import DFNMR
from relujax.models.lenet import LeNet
from relujax.models.mobilenet import MobileNet, MobileNetV2
from relujax.models.preact_resnet import PreActResNet
from relujax.models.resnet import ResNet
from relujax.models.senet import SENet
from relujax.models.shufflenet import ShuffleNet, ShuffleNetV2
from relujax.models.squeezenet import SqueezeNet
from relujax.placement import BOTTLENECK_TYPE_1, DROP_FIRST, DROP_LAST, TYPE_1, TYPE_3

# Without any optimisation, float64 convolutions of many channels take longer than compiling.
COMPILE_FAST = {"xla_backend_optimization_level": 1}
torch.set_num_threads(1)  # several cost more than they save on images this small
OBLONG = (4, 16, 24, 3)  # so that height and width cannot be confused
ROUNDING = 2.0**-23  # float32's; one of them is off by half of it at most
NOTHING = 1e-12  # what is left of a gradient that should be 0: of a bias in front of BatchNorm

RELU, ELU, TANHEXP, RELU6 = nn.ReLU(), nn.ELU(), networks.TanhExp(), nn.ReLU6()
DROP_FIRST_WITH_BN = {"placement": DROP_FIRST, "batch_norm": "with_activation"}

NETWORKS = {
    "ResNet-pad": (ResNet(14, 10), lambda: networks.resnet(14, 10, RELU, shortcut="pad")),
    "ResNet-projection": (
        ResNet(14, 10, "elu", shortcut="projection"),
        lambda: networks.resnet(14, 10, ELU, shortcut="projection"),
    ),
    "ResNet-last-ReLU-dropped": (
        ResNet(8, 10, placement=DROP_LAST),
        lambda: networks.resnet(8, 10, RELU, shortcut="pad", act_after=False),
    ),
    "ResNet-first-ReLU-dropped-with-BN": (
        ResNet(8, 10, shortcut="projection", **DROP_FIRST_WITH_BN),
        lambda: networks.resnet(8, 10, RELU, shortcut="projection", act_inside=False, bn_inside=False),
    ),
    "PreActResNet": (PreActResNet(14, 10), lambda: networks.preact_resnet(14, 10, RELU)),
    "PreActResNet-pad-first-ReLU-dropped": (
        PreActResNet(8, 10, shortcut="pad", placement=DROP_FIRST),
        lambda: networks.preact_resnet(8, 10, RELU, shortcut="pad", first_act=False),
    ),
    "PreActResNet-first-ReLU-dropped-with-BN": (
        PreActResNet(8, 10, **DROP_FIRST_WITH_BN),
        lambda: networks.preact_resnet(8, 10, RELU, first_act=False, first_bn=False),
    ),
    "PreActResNet-bottleneck": (
        PreActResNet(20, 10, "bottleneck", "tanhexp"),
        lambda: networks.preact_resnet(20, 10, TANHEXP, bottleneck=True),
    ),
    "PreActResNet-bottleneck-type-1": (
        PreActResNet(11, 10, "bottleneck", placement=BOTTLENECK_TYPE_1),
        lambda: networks.preact_resnet(11, 10, RELU, bottleneck=True, first_act=False),
    ),
    "DFNMR": (DFNMR(18, 10), lambda: networks.DFNMR(18, 10, RELU)),
    "DFNMR-type-1": (DFNMR(14, 10, placement=TYPE_1), lambda: networks.DFNMR(14, 10, RELU, act_after=False)),
    "DFNMR-type-3": (
        DFNMR(14, 10, "elu", placement=TYPE_3),
        lambda: networks.DFNMR(14, 10, ELU, act_inside=False, act_after=False),
    ),
    "LeNet": (LeNet(10, "relu"), lambda: networks.lenet(10, RELU)),
    "LeNet-TanhExp": (LeNet(10), lambda: networks.lenet(10, TANHEXP)),
    "MobileNet": (MobileNet(10), lambda: networks.mobilenet(10, TANHEXP)),
    "MobileNetV2": (MobileNetV2(10, "relu6"), lambda: networks.mobilenet_v2(10, RELU6)),
    "SqueezeNet": (SqueezeNet(10, "relu"), lambda: networks.squeezenet(10, RELU)),
    "ShuffleNet": (ShuffleNet(10, "relu"), lambda: networks.shufflenet(10, RELU)),
    "ShuffleNetV2": (ShuffleNetV2(10), lambda: networks.shufflenet_v2(10, TANHEXP)),
    "SENet": (SENet(18, 10), lambda: networks.senet18(10, TANHEXP)),
}


@pytest.mark.parametrize("model, network", NETWORKS.values(), ids=NETWORKS)
def test_relujax_and_pytorch_compute_the_same(model, network):
    shape = (4, 32, 32, 3) if isinstance(model, LeNet) else OBLONG
    images, labels = np.random.default_rng(0).normal(size=shape), np.arange(4)
    network = network()
    randomize(network)
    variables = from_torch(model, network.state_dict(), shape)  # exactly, since they still are float32

    with jax.enable_x64(True):
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        step = jax.jit(partial(step_of_relujax, model.clone(dtype=jnp.float64)), compiler_options=COMPILE_FAST)
        evaluated, trained, after = jax.device_get(step(variables, images, labels))
    *logits, state_dict = step_of_pytorch(network, images, labels)

    np.testing.assert_allclose((evaluated, trained), logits, rtol=ROUNDING)
    wanted = from_torch(model, state_dict, shape)
    assert jax.tree.structure(after) == jax.tree.structure(wanted)
    for (path, array), same in zip(jax.tree.leaves_with_path(after), jax.tree.leaves(wanted)):
        assert array.dtype == np.float64
        np.testing.assert_allclose(array, same, ROUNDING, NOTHING, err_msg=jax.tree_util.keystr(path))


def step_of_relujax(model, variables, images, labels):
    """Logits in eval and in train mode, and {"params": their gradient, "batch_stats": the new ones}."""

    def mean_loss(params):
        logits, updates = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float64), labels)
        return losses.mean(), (logits, updates)

    evaluated = model.apply(variables, images, train=False)
    gradient, (trained, updates) = jax.grad(mean_loss, has_aux=True)(variables["params"])
    return evaluated, trained, {"params": gradient, **updates}


def step_of_pytorch(network, images, labels):
    """The same; the third is a state_dict with gradients in place of the parameters."""
    images, labels = torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(labels)
    network.double().eval()
    evaluated = network(images)
    before = {name: array.clone() for name, array in network.named_buffers()}
    norms = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    counts = {}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(lambda _, inputs, name=name: counts.update({name: inputs[0][:, 0].numel()}))
    network.train()
    trained = network(images).float()  # relujax's logits are float32, and so is the gradient that enters there
    nn.functional.cross_entropy(trained.double(), labels).backward()

    state_dict = network.state_dict() | {name: parameter.grad for name, parameter in network.named_parameters()}
    for name, n in counts.items():
        # PyTorch adds n / (n − 1) times the variance of the batch, relujax the variance itself.
        key = f"{name}.running_var"
        kept = 0.9 * before[key]
        state_dict[key] = kept + (state_dict[key] - kept) * (n - 1) / n
    return evaluated.detach().float().numpy(), trained.detach().numpy(), state_dict


def randomize(network):
    """Weights of which every one counts: PyTorch starts BatchNorm at 1 and 0."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
