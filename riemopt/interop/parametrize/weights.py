"""The parametrized weights of a model, and what torch's parametrize needs help with."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList


class NotConvertedError(Exception):
    """Why a weight is left as it is; ends in a `Report`."""


class Weight(NamedTuple):
    """One parametrized weight."""

    name: str
    """Qualified, as in `model.get_submodule`."""
    module: nn.Module
    tensor_name: str
    maps: ParametrizationList

    @property
    def originals(self) -> list[Tensor]:
        """The stored tensors, parameters or buffers."""
        if self.maps.is_tensor:
            return [self.maps.original]
        return [getattr(self.maps, f"original{i}") for i in range(self.maps.ntensors)]


def parametrized_weights(model: nn.Module) -> list[Weight]:
    """All of `model` and its submodules."""
    found = []
    for prefix, module in model.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        assert isinstance(module.parametrizations, nn.ModuleDict)
        for name, maps in module.parametrizations.items():
            assert isinstance(maps, ParametrizationList)
            found.append(Weight(prefix + "." * bool(prefix) + name, module, name, maps))
    return found


def owners(model: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    """The qualified names and the modules of each parameter, by identity: two or more are tied."""
    found: dict[int, list[tuple[str, nn.Module]]] = {}
    for prefix, module in model.named_modules():
        for name, param in module._parameters.items():
            if param is not None:
                full = prefix + "." * bool(prefix) + name
                found.setdefault(id(param), []).append((full, module))
    return found


@contextmanager
def at_rest(maps: ParametrizationList) -> Iterator[None]:
    """Without autograd, and in eval mode: spectral_norm writes to its vectors in training mode."""
    training = {module: module.training for module in maps.modules()}
    maps.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


def random_state_kept(device: torch.device) -> AbstractContextManager[None]:
    """Whatever is drawn inside: torch completes a frame to a basis at random."""
    if device.type in ("cpu", "meta"):
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)


def compute(maps: ParametrizationList) -> Tensor:
    """The weight, from its originals: not what `parametrize.cached` may still hold."""
    with at_rest(maps):
        weight: Tensor = maps()
        return weight


def forget_cached(weight: Weight) -> None:
    """Drop what `parametrize.cached` holds of a weight whose originals are about to change."""
    parametrize._cache.pop((id(weight.module), weight.tensor_name), None)


def close(a: Tensor, b: Tensor, slack: float = 1.0) -> bool:
    """Equality to rounding: |a - b| ≤ slack·10·n·eps·max |b|, n the longest side.

    So much of XᵀX - I torch's `orthogonal` lets pass.
    """
    if not b.numel():
        return True
    bound = slack * 10 * max([*b.shape, 1]) * torch.finfo(b.dtype).eps * b.abs().max()
    return bool((a - b).abs().max() <= bound)


def own_class(module: nn.Module) -> None:
    """Give a parametrized `module` a class that no deep copy of it shares.

    torch keeps the computed weights as properties of a class made for the module. Its deep copies
    are of that class too: what is registered on one appears on the others, and what is removed from
    one is gone from all.
    """
    if parametrize.is_parametrized(module):
        cls = type(module)
        body = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
        module.__class__ = type(cls.__name__, cls.__bases__, body)


def remove_maps(weight: Weight) -> None:
    """`remove_parametrizations`, the original left in the place of the weight."""
    own_class(weight.module)
    forget_cached(weight)
    parametrize.remove_parametrizations(weight.module, weight.tensor_name, leave_parametrized=False)


def set_value(param: Tensor, value: Tensor) -> None:
    """Give the Parameter object a new value, contiguous, and no gradient."""
    param.data = value.contiguous()
    param.grad = None
