"""Onto which manifold a parametrization maps."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.nn.utils import parametrizations as torch_maps

from riemopt import linalg
from riemopt.interop.parametrize.maps import Normalize, SkewSymmetrize, Symmetrize
from riemopt.interop.parametrize.weights import NotConvertedError
from riemopt.manifolds import (
    SPD,
    FixedRank,
    Grassmann,
    Manifold,
    SkewSymmetric,
    SpecialLinear,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    Symmetric,
)

Manifolds = Mapping[type[nn.Module], Manifold]

_OURS = (Normalize, Symmetrize, SkewSymmetrize)


def _rotations(base: Tensor) -> Manifold:
    """Of geotorch's SO, W = base·exp(skew), which lets a base of determinant -1 pass."""
    reflects = not base.is_meta and bool((linalg.phase_of_determinant(base) != 0).any())
    return Stiefel() if reflects else SpecialOrthogonal()


# By name, so that geotorch need not be there. Exact classes: its Grassmannian is a Stiefel to it.
_GEOTORCH: dict[str, Callable[[nn.Module], Manifold]] = {
    "geotorch.fixedrank.FixedRank": lambda p: FixedRank(p.rank),  # type: ignore[arg-type]
    "geotorch.grassmannian.Grassmannian": lambda p: Grassmann(),
    "geotorch.lowrank.LowRank": lambda p: FixedRank(p.rank),  # type: ignore[arg-type]
    "geotorch.psd.PSD": lambda p: SPD(),
    "geotorch.skew.Skew": lambda p: SkewSymmetric(),
    "geotorch.sl.SL": lambda p: SpecialLinear(),
    "geotorch.so.SO": lambda p: _rotations(p.base),  # type: ignore[arg-type]
    "geotorch.sphere.Sphere": lambda p: Sphere(radius=float(p.radius)),  # type: ignore[arg-type]
    "geotorch.sphere.SphereEmbedded": lambda p: Sphere(radius=float(p.radius)),  # type: ignore[arg-type]
    "geotorch.stiefel.Stiefel": lambda p: Stiefel(),
    "geotorch.symmetric.Symmetric": lambda p: Symmetric(),
}

_NO_COUNTERPART = {
    "geotorch.reals.Rn": "it constrains nothing",
    "torch.nn.utils.parametrizations._SpectralNorm": "‖W‖₂ = 1 is on no manifold of the catalogue",
}


def is_weight_norm(parametrization: nn.Module) -> bool:
    """Whether it is torch's `weight_norm`."""
    return type(parametrization) is torch_maps._WeightNorm


def is_orthogonal(parametrization: nn.Module) -> bool:
    """Whether it is torch's `orthogonal`, in any of its maps."""
    return type(parametrization) is torch_maps._Orthogonal


def target(parametrization: nn.Module, manifolds: Manifolds) -> Manifold:
    """The manifold onto which `parametrization` maps.

    Raises:
        NotConvertedError: none is known.
    """
    cls = type(parametrization)
    if cls in manifolds:
        return manifolds[cls]
    if isinstance(parametrization, _OURS):
        return parametrization.manifold
    if is_orthogonal(parametrization):
        return Stiefel()
    name = f"{cls.__module__}.{cls.__qualname__}"
    if name in _GEOTORCH:
        return _GEOTORCH[name](parametrization)
    if name in _NO_COUNTERPART:
        raise NotConvertedError(_NO_COUNTERPART[name])
    raise NotConvertedError(
        f"{cls.__name__} is not known to map onto a manifold; "
        f"if it does, say so: manifolds={{{cls.__name__}: …}}"
    )
