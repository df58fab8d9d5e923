"""How methods behave: shapes, layout, batches, arguments left alone, values of a description."""

import copy
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from riemopt.manifolds import Manifold
from riemopt.testing.law import Residual, equality, joined, law, need, rounding
from riemopt.testing.retractions import on_surface
from riemopt.testing.sampling import ambient, batch_shape, length, tangent
from riemopt.testing.surfaces import need_like

METHODS: dict[str, Callable[[Manifold, Tensor, Tensor, Tensor], Tensor]] = {
    "proj_tangent": lambda m, x, u, a: m.proj_tangent(x, a),
    "egrad2rgrad": lambda m, x, u, a: m.egrad2rgrad(x, a),
    "inner": lambda m, x, u, a: m.inner(x, u, u),
    "norm": lambda m, x, u, a: m.norm(x, u),
    "transport": lambda m, x, u, a: m.transport(x, m.retract(x, u), u),
    "retract": lambda m, x, u, a: m.retract(x, u),
    "curve": lambda m, x, u, a: m.curve(x, u, 0.1),
    "carry": lambda m, x, u, a: m.carry(x, u, a, 0.9, 0.1),
    "carry_mean": lambda m, x, u, a: m.carry_mean(x, u, a, 0.9)[0],
    "violation": lambda m, x, u, a: m.violation(x),
    "project": lambda m, x, u, a: m.project(a),
}
"""Calls of each method with a point, a tangent and an ambient vector."""
# Those whose result is a real number for each point, and those whose result is a point.
REAL = ("inner", "norm", "violation")
POINTS = ("retract", "project", "curve")


@law(
    "equal and hashed by value, frozen, with a readable repr",
    "Decorate the class with @dataclass(frozen=True, repr=False): optimizers step equal manifolds "
    "together.",
    by_shape=True,
)
def description_is_a_value(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """It holds options, and no tensors that would have to be moved."""
    twin = copy.copy(manifold)
    need(manifold == twin and hash(manifold) == hash(twin), "a copy is not equal to it")
    need(manifold != object(), "it is equal to anything")
    need(not re.search(r" at 0x[0-9a-f]+", repr(manifold)), f"its repr is {manifold!r}")
    fields: tuple[dataclasses.Field[Any], ...] = ()
    if dataclasses.is_dataclass(manifold):
        fields = dataclasses.fields(manifold)
    for field in fields:
        value = getattr(manifold, field.name)
        try:
            setattr(manifold, field.name, value)
        except AttributeError:
            continue
        raise AssertionError(f"its field {field.name!r} can be set")


@law(
    "check_shape refuses shapes without the dimensions of a point; event_dims and dim agree",
    "Raise ValueError that says what is needed, and what was given.",
    by_shape=True,
)
def shapes_are_checked(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """`dim` is a count: a number of degrees of freedom of one point."""
    dims = manifold.event_dims(x.ndim)
    need(all(-x.ndim <= d < 0 for d in dims), f"event_dims are {dims}, needed: from the end")
    dim = manifold.dim(x.shape, is_complex=x.is_complex())
    need(isinstance(dim, int) and dim >= 0, f"dim is {dim!r}")
    if manifold.event_dims(0):  # it does not take the whole tensor
        try:
            manifold.check_shape(())
        except ValueError as error:
            need(bool(str(error)), "the ValueError of check_shape(()) says nothing")
        else:
            raise AssertionError("check_shape(()) accepts a tensor without dimensions")


@law(
    "results have the shape and dtype of x, and are contiguous; any strides are accepted",
    "End by .contiguous(): checkpoints and sharding refuse other layouts.",
)
def results_keep_the_layout(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """Whatever the strides of the arguments."""
    u = tangent(manifold, x, gen)
    y = manifold.retract(x, u)
    need_like("retract", y, x)
    strided = [a.transpose(0, -1).contiguous().transpose(0, -1) for a in (x, u)]
    z = manifold.retract(*strided)
    need_like("retract of a strided point", z, x)
    scale = length(manifold, x) + length(manifold, u)
    return equality(manifold, z, y, scale)


@law(
    "float32 gives float32 (complex64 gives complex64), on the surface to its rounding",
    "Are constants made in the dtype of x? Does the retraction keep all digits of the dtype?",
)
def single_precision_is_kept(manifold: Manifold, x: Tensor, gen: Generator) -> Residual:
    """Every method of a step."""
    single = torch.complex64 if x.is_complex() else torch.float32
    X = manifold.project(x.to(single))
    u, a = tangent(manifold, X, gen), ambient(X, gen)
    results = {name: call(manifold, X, u, a) for name, call in METHODS.items()}
    for name, result in results.items():
        dtype = X.real.dtype if name in REAL else single
        need(result.dtype == dtype, f"{name} gives {result.dtype} for {single}")
        need(bool(result.isfinite().all()), f"{name} is not finite in {single}")
    return joined(*(on_surface(manifold, results[name]) for name in ("retract", "project")))


@law(
    "no method writes to its arguments, and no result shares their memory",
    "Is there an in-place operation on x, u or a? (proj_tangent may return its argument.)",
)
def arguments_are_left_alone(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """Optimizers hand over the stored weight and the stored state."""
    u, a = tangent(manifold, x, gen), ambient(x, gen)
    for name, call in METHODS.items():
        given = [tensor.clone() for tensor in (x, u, a)]
        result = call(manifold, *given)
        same = all(torch.equal(b, c) for b, c in zip(given, (x, u, a), strict=True))
        need(same, f"{name} writes to an argument")
        if name in POINTS and manifold.is_constraint and x.numel():
            shared = any(result.data_ptr() == b.data_ptr() for b in given)
            need(not shared, f"{name} returns memory of an argument")


@law(
    "a batch gives what each of its points gives alone",
    "Is a norm, a maximum or a number of iterations taken over the whole batch? Are dimensions "
    "counted from the front?",
)
def batch_equals_loop(manifold: Manifold, x: Tensor, gen: Generator) -> None:
    """With steps of different sizes, and a new dimension in front."""
    from_end = manifold.with_dims_from_end(x.ndim)
    ends = [manifold.retract(x, tangent(manifold, x, gen, size)) for size in (0.0, 0.1, 10.0)]
    further = zip(ends, (0.3, 0.0, 3.0), strict=True)
    steps = [tangent(manifold, y, gen, size) for y, size in further]
    vectors = [size * ambient(x, gen) for size in (1.0, 0.1, 10.0)]
    batch = [torch.stack(tensors) for tensors in (ends, steps, vectors)]
    for name, call in METHODS.items():
        together = call(from_end, *batch)
        one = batch_shape(manifold, x) if name in REAL else tuple(x.shape)
        need(tuple(together.shape) == (3, *one), f"{name} gives shape {tuple(together.shape)}")
        for i, (y, u, a) in enumerate(zip(ends, steps, vectors, strict=True)):
            alone = call(manifold, y, u, a)
            scale = sum(torch.linalg.vector_norm(b) for b in (alone, y, u, a))
            error = torch.linalg.vector_norm(together[i] - alone)
            found, allowed = rounding(error, scale, x.dtype).worst()
            need(found <= allowed, f"{name} differs by {found:.3g}, allowed {allowed:.3g}")


DESCRIPTION = (description_is_a_value, shapes_are_checked, arguments_are_left_alone)
BEHAVIOUR = (results_keep_the_layout, single_precision_is_kept, batch_equals_loop)
