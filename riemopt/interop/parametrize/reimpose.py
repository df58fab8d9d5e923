"""Originals put back on the constraint, for those who stay with parametrize.

Different originals give the same weight, and training drifts along them: x/‖x‖ pushes x outwards
for ever, so that its angle moves less and less at the same learning rate; a base that is multiplied
by exp(A) is best moved before A grows. What is moved here is what the weight does not depend on.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _OrthMaps
from torch.nn.utils.parametrize import ParametrizationList
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from riemopt.interop.common import Report
from riemopt.interop.parametrize.maps import ScaledDirection
from riemopt.interop.parametrize.recognize import is_orthogonal, is_weight_norm
from riemopt.interop.parametrize.weights import (
    NotConvertedError,
    Weight,
    at_rest,
    close,
    forget_cached,
    owners,
    parametrized_weights,
    random_state_kept,
)
from riemopt.linalg import outside_autocast
from riemopt.nn.admission import require_module


@outside_autocast
def reimpose_(model: nn.Module) -> Report:
    """Put the originals of `model`'s parametrizations back on the constraint. In place.

    The weights, and so the function that the network computes, stay the same to rounding; a weight
    for which that cannot be done keeps its originals bit for bit, and is reported.

    ================================  ============================================================
    leaves weights W as they are      the original becomes W: x/‖x‖, `Normalize`, symmetric parts,
                                      spectral_norm (then ‖W‖₂ = 1 is that of the original)
    weight_norm                       V becomes V/‖V‖, g stays
    orthogonal, geotorch's bases      the base becomes W, the original that of the identity
    orthogonal without base:
      householder                     the reflectors of W, as LAPACK has them
      matrix_exp, square              angles of the skew matrix modulo 2π: its principal logarithm
      matrix_exp, not square          cannot: of exp(A) the first columns alone are kept, and no
                                      other A with its zero block and those columns is known
      cayley                          cannot: the map is one to one, there is no other original
    any other with a right_inverse    what that gives
    ================================  ============================================================

    The state of an optimizer is not touched. It is of the old originals, which matters less the
    more often this is done: after a change of scale by s, gradients are 1/s of the ones before.

    Args:
        model: searched with its submodules.

    Returns:
        How each weight was treated, and of each that was left, why.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from torch.nn.utils.parametrize import register_parametrization
        >>> from riemopt.interop.parametrize import Normalize, reimpose_
        >>> layer = register_parametrization(nn.Linear(4, 1), "weight", Normalize())
        >>> _ = nn.init.constant_(layer.parametrizations.weight.original, 5.0)
        >>> _ = reimpose_(layer)
        >>> layer.parametrizations.weight.original.norm().item()
        1.0
    """
    require_module(model)
    known = owners(model)
    done: dict[str, str] = {}
    left: dict[str, str] = {}
    for weight in {id(weight.maps): weight for weight in parametrized_weights(model)}.values():
        try:
            for original in weight.originals:
                for name, module in known.get(id(original), []):
                    if module is not weight.maps:
                        raise NotConvertedError(f"its original is tied to {name}")
            done[weight.name] = _reimpose(weight)
        except NotConvertedError as error:
            left[weight.name] = str(error)
    return Report(done, left)


def reimpose_every(optimizer: Optimizer, model: nn.Module, steps: int) -> RemovableHandle:
    """Call `reimpose_(model)` after every so many steps of `optimizer`; the hook's handle.

    Raises:
        ValueError: `steps` is not a positive integer, or `model` has no parametrization.

    Examples:
        >>> import torch
        >>> from torch.nn.utils.parametrize import register_parametrization
        >>> from riemopt.interop.parametrize import Normalize, reimpose_every
        >>> layer = register_parametrization(torch.nn.Linear(4, 1), "weight", Normalize())
        >>> optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
        >>> handle = reimpose_every(optimizer, layer, steps=10)
        >>> handle.remove()  # when it is enough
    """
    if not (isinstance(steps, int) and steps > 0):
        raise ValueError(f"steps must be a positive integer; got {steps!r}.")
    require_module(model)
    if not parametrized_weights(model):
        raise ValueError(f"{type(model).__name__} has no parametrized weight to reimpose.")
    taken = 0

    def hook(*_: object) -> None:
        nonlocal taken
        taken += 1
        if taken % steps == 0:
            reimpose_(model)

    return optimizer.register_step_post_hook(hook)


def _reimpose(weight: Weight) -> str:
    """Move the originals of one weight, or put all back."""
    maps = weight.maps
    with at_rest(maps):
        before = maps()
        if before.is_meta or not bool(before.isfinite().all()):
            raise NotConvertedError("the computed weight is not finite")
        saved = copy.deepcopy(maps.state_dict())
        try:
            how, slack = _move(weight, before)
            after = maps()
            if not close(after, before, slack):
                change = (after - before).abs().max()
                raise NotConvertedError(f"the weight would change by {change:.1e}")
        except NotConvertedError:
            maps.load_state_dict(saved)
            raise
    forget_cached(weight)
    return how


def _move(weight: Weight, value: Tensor) -> tuple[str, float]:
    """What was done, and by how many roundings the weight may change for it."""
    maps, first = weight.maps, weight.maps[0]
    if isinstance(first, ScaledDirection):
        raise NotConvertedError("its direction is kept on a sphere by riemopt's optimizers")
    if is_weight_norm(first) and len(maps) == 1:
        v = weight.originals[1]
        v.div_(torch.norm_except_dim(v, 2, first.dim))  # type: ignore[arg-type]
        return "V has length 1", 1.0
    if maps.is_tensor and _is_own_original(maps, value):
        return "the original is the weight", 1.0
    if is_orthogonal(first) and not hasattr(first, "base") and len(maps) == 1:
        kind = first.orthogonal_map
        if kind == _OrthMaps.cayley:
            raise NotConvertedError("the Cayley map is one to one: there is no other original")
        if kind == _OrthMaps.matrix_exp:
            return _unwind(maps.original)
    _invert(weight, value)
    return "the original is the right inverse of the weight", 1.0


def _is_own_original(maps: ParametrizationList, value: Tensor) -> bool:
    """Store the weight as its original, where the map leaves it as it is."""
    original: Tensor = maps.original
    if original.shape != value.shape or original.dtype != value.dtype:
        return False
    kept = original.clone()
    original.copy_(value)
    if close(maps(), value):
        return True
    original.copy_(kept)
    return False


def _unwind(original: Tensor) -> tuple[str, float]:
    """A ← A less 2π for each turn of its eigenvalues iθ: exp(A) is the same, |θ| ≤ π."""
    if original.shape[-1] != original.shape[-2]:
        raise NotConvertedError(
            "of exp(A) the first columns alone are kept, and no other A with them is known"
        )
    lower = original.tril()
    theta, V = torch.linalg.eigh(-1j * (lower - lower.mH))  # of the Hermitian matrix -iA
    turns = (theta / (2 * math.pi)).round()
    if not bool(turns.any()):
        return "its angles are within ±π already", 0.0
    A = 1j * (V * (theta - 2 * math.pi * turns).unsqueeze(-2)) @ V.mH
    diagonal = torch.diag_embed(A.diagonal(dim1=-2, dim2=-1)) / 2  # x - x̄ = 2i Im x
    X = A.tril(-1) + diagonal
    original.copy_(X if original.is_complex() else X.real)
    # exp(A) is known to eps·‖A‖ only.
    return "angles of the skew matrix are modulo 2π", 1 + theta.abs().max().item()


def _invert(weight: Weight, value: Tensor) -> None:
    """As `maps.right_inverse(value)`, in the memory that the originals have."""
    new: Any = value
    try:
        with random_state_kept(value.device):
            for parametrization in reversed(list(weight.maps)):
                right_inverse: Any = getattr(parametrization, "right_inverse", None)
                if right_inverse is None:
                    name = type(parametrization).__name__
                    raise NotConvertedError(f"{name} has no right_inverse")
                new = right_inverse(new)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise NotConvertedError(f"right_inverse refuses the weight: {error}") from None
    values = [new] if isinstance(new, Tensor) else list(new)
    for original, part in zip(weight.originals, values, strict=True):
        original.copy_(part)
