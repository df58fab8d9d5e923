"""Muon on manifolds: steps of one spectral norm, and AdamW for what is no matrix.

    optimizer = RiemannianMuon(model.parameters(), lr=0.02, adamw={"lr": 3e-4})

A step of Muon goes along msign(M) = UVᴴ, where M = USVᴴ is the momentum (Jordan et al. 2024;
Bernstein & Newhouse 2024). On a manifold it goes along the tangent Φ of spectral norm 1 that gains
most, max Re⟨M, Φ⟩, which for orthonormal columns is msign(skew(MXᴴ))·X ("Skewon", arXiv 2608.06218;
`riemopt.linalg.msign`). Projecting msign(M) is not that, and not even a descent: at X = I, with
M = [[a, b], [-b, -c]] and ac > b² > 0, it is 0.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from riemopt import linalg
from riemopt.distributed.dtensor import cut_dims
from riemopt.linalg import outside_autocast
from riemopt.manifolds import Manifold
from riemopt.optim.adam import RiemannianAdamW
from riemopt.optim.optimizer import RiemannianOptimizer, counted
from riemopt.optim.parameters import manifolds_of_group
from riemopt.optim.stack import Stack
from riemopt.optim.state import exact
from riemopt.optim.step import Carried, Request, Scalar, SpectralStep

Direction = Literal["exact", "projected"]


class _NoMuon(Optimizer):
    """Stands for `torch.optim.Muon` where torch has none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            "RiemannianMuon needs torch.optim.Muon, which torch 2.9 and later have; this is torch "
            f"{torch.__version__}. Update torch, or use RiemannianAdamW."
        )


if TYPE_CHECKING:
    from torch.optim import Muon
else:
    Muon = getattr(torch.optim, "Muon", _NoMuon)


def muon(g: Tensor, m: Tensor, *, lr: Scalar, momentum: float, nesterov: bool) -> SpectralStep:
    """The step of length lr in the spectral norm, along a running mean m of gradients g.

    With `nesterov` it goes along (1 - μ)·g + μ·m, as in torch.
    """
    m = linalg.average(g, m, momentum)
    u = linalg.average(g, m, momentum) if nesterov else m
    return SpectralStep(u, -lr, {"momentum_buffer": m}, is_tangent=False, keeps_nan=True)


class RiemannianMuon(RiemannianOptimizer, Muon):
    """`torch.optim.Muon` whose constrained parameters stay on their manifolds.

    The arguments, their order and defaults, the layout of `state_dict()` and the numbers on
    unconstrained matrices are torch's. A constrained weight moves by lr·√max(1, n/p) in the
    spectral norm (see `adjust_lr_fn`), whatever the size of its gradient, and so by angles of that
    size where its singular values are 1. Its momentum is a mean of Euclidean gradients.

    The direction of a step, for a momentum M:

    * of an unconstrained matrix msign(M): torch's own step;
    * on `Stiefel` and `SpecialOrthogonal` (tall, wide, square, batches; kernels by `Flattened`,
      heads by `RowBlocks`) the tangent Φ with ‖Φ‖₂ ≤ 1 of largest ⟨M, Φ⟩; on `Grassmann` the
      horizontal one;
    * on `Sphere(dim=None)`, which keeps the norm of a matrix ("MuonH"), and `Sphere()`, which keeps
      that of each row ("AngularMuown"), msign of the tangent part of M, projected;
    * on `Scaled` of these that of the base, and the scale moves by `lr`, too;
    * of everything else (vectors, other manifolds, kernels as they are) the step of
      `RiemannianAdamW`.

    Weights of the last kind are put in a group of their own, which has the options `adamw`;
    `repr(optimizer)` says what is stepped by which. A group may choose itself:
    `{"params": …, "use_muon": False, "lr": 3e-4}` for embeddings and heads, which are matrices
    too; `"use_muon": True` is an error where there is no direction. What a group says (such as
    `"weight_decay": 0`) holds for all of its weights.

    Args:
        params: parameters, named parameters, or groups; a group may hold `"manifold": Stiefel()`.
        lr: spectral norm of a step, before `adjust_lr_fn`. On a `Stiefel` or `Grassmann` manifold a
            radian; a step of more than π/4 is shortened, and counted in `shortened_steps`.
        weight_decay: decoupled. On a manifold its tangent part, which is zero but on `Scaled`.
        momentum: factor of the buffer.
        nesterov: step along (1 - momentum)·grad + momentum·buffer.
        ns_coefficients: of unconstrained matrices: of each of the `ns_steps`.
        eps: norm of a momentum below which steps are shorter.
        ns_steps: of unconstrained matrices: Newton–Schulz steps that make msign.
        adjust_lr_fn: "original" or None for lr·√max(1, n/p) of a weight with n rows and p columns;
            "match_rms_adamw" for .2·lr·√max(n, p).
        direction: "exact", or "projected" for P·msign(P·M) on `Stiefel`, P the projection to the
            tangent space. That has some .9 of the gain, takes fewer products where n/2 < p < n, and
            is the same for square matrices.
        msign_steps: of constrained matrices: steps of the Polar Express iteration. Six bring
            singular values between 1 and 1e-3 of the norm to within .02 of 1; steps are tangent
            with any number.
        adamw: options of AdamW for weights that Muon does not step, such as `{"lr": 3e-4}`; what is
            not named is torch's default.

    Full-batch problems are not what it is for: steps are as long at the minimum as far from it.

    Raises:
        ValueError, TypeError: as `torch.optim.Muon` (but a weight that is no matrix is stepped by
            AdamW), and as `add_param_group`.
        NotImplementedError: torch is older than 2.9, or a constrained matrix is cut over processes.

    Examples:
        >>> import torch, riemopt
        >>> layer = riemopt.constrain(torch.nn.Linear(8, 16), "weight", riemopt.manifolds.Stiefel())
        >>> optimizer = riemopt.RiemannianMuon(layer.parameters(), lr=0.02, adamw={"lr": 1e-3})
        >>> layer(torch.ones(4, 8)).square().sum().backward()
        >>> optimizer.step()  # the bias by AdamW
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.02, 0.001]
    """

    decay_is_decoupled = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        direction: Direction = "exact",
        msign_steps: int = 6,
        adamw: Mapping[str, Any] | None = None,
    ) -> None:
        if direction not in ("exact", "projected"):
            raise ValueError(f"direction must be 'exact' or 'projected'; got {direction!r}.")
        if not isinstance(msign_steps, int) or msign_steps < 1:
            raise ValueError(f"msign_steps must be a whole number from 1 on; got {msign_steps!r}.")
        self.direction, self.msign_steps = direction, msign_steps
        # Options are checked by torch, on a weight that it accepts.
        probe = torch.zeros(1, 1)
        options: dict[str, Any] = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        defaults = Muon([probe], **options).defaults
        self._adamw_defaults = torch.optim.AdamW([probe], **(adamw or {})).defaults
        if self._adamw_defaults.get("differentiable"):
            raise ValueError("Muon has no differentiable steps; adamw says differentiable=True.")
        self._adamw: RiemannianAdamW | None = None
        self._start()
        Optimizer.__init__(self, params, defaults)
        self._places = None

    # --- which weight is stepped by which ---

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, or two if some of its weights are AdamW's: those come second.

        Raises:
            ValueError: `"use_muon": True`, and a weight has no direction in the spectral norm.
            NotImplementedError: a constrained matrix is cut over processes.
            Others as those of `RiemannianOptimizer`.
        """
        group = dict(param_group)
        wanted = group.pop("use_muon", None)
        if wanted not in (True, False, None):
            raise ValueError(f"A group's 'use_muon' must be True or False; got {wanted!r}.")
        count = len(self.param_groups)
        try:
            for part, by_muon in self._split(group, wanted):
                if by_muon:
                    super().add_param_group(part)
                else:
                    self._add_adamw_group(part)
        except (TypeError, ValueError, RuntimeError):
            del self.param_groups[count:], self._manifolds[count:]
            raise

    def _split(
        self, group: dict[str, Any], wanted: bool | None
    ) -> list[tuple[dict[str, Any], bool]]:
        """The weights of a group that Muon steps, and those that AdamW does."""
        params = group.get("params")
        if wanted is False or isinstance(params, set) or params is None:
            return [(group, wanted is not False)]
        params = [params] if isinstance(params, Tensor) else list(params)
        group["params"] = params
        tensors = [p[1] if isinstance(p, tuple) and len(p) == 2 else p for p in params]
        named = group.get("manifold")
        fits = all(isinstance(p, Tensor) for p in tensors)
        if not fits or not isinstance(named, Manifold | None):
            return [(group, True)]  # which is refused
        manifolds = manifolds_of_group(tensors, named, self._places, self._unknown)
        found = [_is_spectral(p, m) for p, m in zip(tensors, manifolds, strict=True)]
        for p, manifold, by_muon in zip(tensors, manifolds, found, strict=True):
            if wanted and not by_muon:
                raise ValueError(_no_direction(p, manifold))
            if by_muon and manifold is not None:
                self._check_own(p, manifold)
        if all(found) or not any(found):
            return [(group, all(found))]
        return [
            (
                {**group, "params": [p for p, by in zip(params, found, strict=True) if by is kind]},
                kind,
            )
            for kind in (True, False)
        ]

    def _add_adamw_group(self, group: dict[str, Any]) -> None:
        super().add_param_group({**self._adamw_defaults, **group, "use_muon": False})
        for key in self.defaults.keys() - self._adamw_defaults.keys() - group.keys():
            del self.param_groups[-1][key]
        self._prepare_adamw()

    def _prepare_adamw(self) -> None:
        """Have what steps AdamW's groups; before a step, since a graph cannot make an optimizer."""
        if self._adamw is None and any(map(_is_adamw, self.param_groups)):
            self._adamw = RiemannianAdamW([torch.zeros(0)])

    @override
    def _check_own(self, param: Tensor, manifold: Manifold) -> None:
        if manifold.spectral_shape(param.shape) is None:  # it was constrained after it was added
            raise ValueError(_no_direction(param, manifold))
        if cut_dims(param) & {-2, -1}:
            raise NotImplementedError(
                f"Muon looks at the whole of a matrix, and of a parameter on {manifold} each "
                "process has a part only. Keep it whole on each process, or give it to a group "
                'with "use_muon": False.'
            )

    @override
    def _summary(self) -> str:
        by_adamw = [_is_adamw(group) for group in self.param_groups]
        lines = []
        for name, kind in (("Muon", False), ("AdamW", True)):
            theirs = [
                m for m, is_its in zip(self._manifolds, by_adamw, strict=True) if is_its is kind
            ]
            if theirs:
                lines.append(f"{name} steps {counted(m for own in theirs for m in own)}")
        return "Parameters: " + "; ".join(lines)

    # --- the step ---

    @override
    @outside_autocast
    def _step_all(self) -> None:
        by_adamw = [_is_adamw(group) for group, _ in self._groups()]
        if not any(by_adamw):
            super()._step_all()
            return
        adamw = self._adamw
        assert adamw is not None
        before = self.param_groups, self._manifolds, self._seen
        own, others = ([_of_kind(a, by_adamw, kind) for a in before] for kind in (False, True))
        adamw._skipped, adamw._shortened = self._skipped, self._shortened
        adamw.state = self.state
        groups, adamw._manifolds, adamw._seen = others
        # Copies: torch.compile takes a dict of another optimizer's groups for one of this one.
        adamw.param_groups = [dict(group) for group in groups]
        self.param_groups, self._manifolds, self._seen = own
        try:
            work, other_work = self._work(), adamw._work()
            self._take(work)
            adamw._take(other_work)
        finally:
            self.param_groups, self._manifolds, self._seen = before

    @override
    def _initial_state(
        self, group: dict[str, Any], param: Tensor, manifold: Manifold
    ) -> dict[str, Tensor]:
        dtype = exact(param)
        return {"momentum_buffer": torch.zeros_like(param, dtype=dtype)}

    @override
    def _request(self, group: dict[str, Any], stack: Stack) -> Request:
        return Request(ambient=True)

    @override
    def _rule(self, group: dict[str, Any], stack: Stack, carried: Carried) -> SpectralStep:
        shape = stack.manifold.spectral_shape(stack.params[0].shape)
        assert shape is not None
        assert carried.gradient is not None
        ratio = _adjusted(group["adjust_lr_fn"], *shape)
        step = muon(
            carried.gradient,
            stack.load("momentum_buffer"),
            lr=group["lr"] * ratio,
            momentum=group["momentum"],
            nesterov=group["nesterov"],
        )
        step.msign_steps, step.eps = self.msign_steps, group["eps"]
        step.exact = self.direction == "exact"
        step.decay = group["weight_decay"] / ratio
        return step

    # --- state ---

    @override
    def _needed_state(self, saved_group: dict[str, Any]) -> tuple[str, ...]:
        return ("step", "exp_avg", "exp_avg_sq") if _is_adamw(saved_group) else ("momentum_buffer",)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the optimizer state, also from a checkpoint of `torch.optim.Muon`.

        On any error nothing has changed.

        Raises:
            ValueError: other weights are AdamW's in the checkpoint; or as `RiemannianOptimizer`.
        """
        saved = [_is_adamw(group) for group in state_dict.get("param_groups", ())]
        own = [_is_adamw(group) for group in self.param_groups]
        if len(saved) == len(own) and saved != own:
            raise ValueError(
                f"In the checkpoint AdamW steps the groups {_numbers(saved)}, and here the groups "
                f"{_numbers(own)}. Build the optimizer for the same weights and constraints."
            )
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        own = ("direction", "msign_steps", "_adamw_defaults")
        return {**super().__getstate__(), **{key: getattr(self, key) for key in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_adamw", None)
        self._prepare_adamw()


def _adjusted(adjust_lr_fn: str | None, n: int, p: int) -> float:
    """What `lr` is multiplied with for n×p matrices, as in torch."""
    if adjust_lr_fn == "match_rms_adamw":
        return 0.2 * math.sqrt(max(n, p))
    return math.sqrt(max(1, n / p))


def _is_spectral(param: Tensor, manifold: Manifold | None) -> bool:
    """Whether Muon has a step for a parameter."""
    if manifold is None:
        return param.ndim == 2 and not param.is_complex()
    return manifold.spectral_shape(param.shape) is not None


def _no_direction(param: Tensor, manifold: Manifold | None) -> str:
    where = "unconstrained" if manifold is None else f"on {manifold}"
    return (
        f"Muon steps matrices, real ones where they are unconstrained, and has no step for a "
        f"{param.dtype} parameter of shape {tuple(param.shape)}, {where}. Give it to a group with "
        '"use_muon": False, which AdamW steps.'
    )


def _is_adamw(group: dict[str, Any]) -> bool:
    return not group.get("use_muon", True)


def _of_kind(values: list[Any], by_adamw: list[bool], kind: bool) -> list[Any]:
    return [value for value, is_its in zip(values, by_adamw, strict=True) if is_its is kind]


def _numbers(chosen: list[bool]) -> list[int]:
    return [i for i, is_chosen in enumerate(chosen) if is_chosen]
