"""What one step launches and multiplies where nothing may be read, as on a GPU: a table.

    python benchmarks/launches.py
    python benchmarks/launches.py --detail "Stiefel 512²"
    python benchmarks/launches.py --compiled        # some minutes

Counted on meta tensors, so that no device is needed: each operator that is not a view is one
kernel, and a matrix product counts by its multiplications, in units of one n×p×p product of the
weights. "exact" are the products in full float32; the others may take TF32 inputs. Lists of small
weights that are copied by one foreach operator count as one. It is the second step that is counted,
when all state is there.

With `--compiled`, the step as inductor compiles it, on a GPU or else on the CPU: how many graphs it
is (one, or torch.compile raises: so nothing is read on the host), how many kernels inductor has
written for it, and how often it calls a library, for products. On a CPU one kernel may be several
loops over memory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch._inductor.utils import run_and_get_code
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from riemopt import RiemannianAdam, RiemannianSGD
from riemopt._torch_versions import CUDA_PRODUCTS
from riemopt.manifolds import Manifold, Sphere, Stiefel, Symmetric

NO_KERNEL = {"detach", "empty", "empty_like", "empty_strided", "lift_fresh", "_unsafe_view"}
"""Operators that are not marked as views and launch nothing."""
FACTORS = {"mm": 0, "bmm": 0, "addmm": 1, "addmm_": 1, "baddbmm": 1, "baddbmm_": 1}
"""Matrix products: the place of the first factor among the arguments."""


class Launches(TorchDispatchMode):
    """Counts kernels by name, and the multiplications of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.multiplications = 0
        self.exact_multiplications = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and name not in NO_KERNEL and _is_on_device((args, result)):
            self.kernels[name] += 1
        if name in FACTORS:
            a, b = args[FACTORS[name] : FACTORS[name] + 2]
            self.multiplications += a.numel() * b.shape[-1]
            if CUDA_PRODUCTS.fp32_precision != "tf32":
                self.exact_multiplications += a.numel() * b.shape[-1]
        return result


def _is_on_device(values: Any) -> bool:
    return any(isinstance(a, Tensor) and a.is_meta for a in tree_leaves(values))


class Weights(NamedTuple):
    """Equal weights, and what is wanted of a step of each optimizer."""

    name: str
    manifold: Manifold
    shape: tuple[int, ...]
    count: int = 1
    wanted: tuple[tuple[str, int, float | None], ...] = ()
    """Optimizer, kernels at most, products at most."""


POINT, TANGENT, MOMENTUM = 'Adam, "point"', "Adam", "SGD, momentum"
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    POINT: lambda groups: RiemannianAdam(groups, second_moment="point"),
    TANGENT: lambda groups: RiemannianAdam(groups),
    MOMENTUM: lambda groups: RiemannianSGD(groups, lr=1e-3, momentum=0.9),
}
WEIGHTS = [
    Weights("Stiefel 512²", Stiefel(), (512, 512), 1, ((POINT, 60, 15), (MOMENTUM, 45, None))),
    Weights("Stiefel 1024×64", Stiefel(), (1024, 64), 1, ((POINT, 60, 8),)),
    Weights("Stiefel 1024×512", Stiefel(), (1024, 512), 1, ((POINT, 60, 12),)),
    Weights("64 of Stiefel 16²", Stiefel(), (16, 16), 64, ((POINT, 65, 15),)),
    Weights("Stiefel 1024×64, QR", Stiefel("qr"), (1024, 64)),
    Weights("Stiefel 1024×64, Cayley", Stiefel("cayley"), (1024, 64)),
    Weights("Sphere 4096×1024", Sphere(), (4096, 1024), 1, ((POINT, 30, None),)),
    Weights("Symmetric 256²", Symmetric(), (256, 256), 1, ((POINT, 20, None),)),
]


def launches(weights: Weights, make: Callable[[Any], torch.optim.Optimizer]) -> Launches:
    """What the second step launches."""
    params = [nn.Parameter(torch.empty(weights.shape, device="meta")) for _ in range(weights.count)]
    for p in params:
        p.grad = torch.empty_like(p)
    optimizer = make([{"params": params, "manifold": weights.manifold}])
    optimizer.step()
    with Launches() as counted:
        optimizer.step()
    return counted


def unit(shape: Sequence[int], count: int) -> int:
    """The multiplications of one n×p×p product of each weight."""
    p, n = sorted(shape[-2:])
    return count * n * p * p


class Compiled(NamedTuple):
    """What a compiled step is made of."""

    graphs: int
    kernels: int
    library_calls: int


_KERNELS = re.compile(r"^\s+(?:cpp_fused\w*\(|triton_\w+\.run\()", re.MULTILINE)
_LIBRARY = re.compile(r"^\s+(?:\w+ = )?(?:extern_kernels\.|torch\.ops\.)", re.MULTILINE)


def compiled(weights: Weights, make: Callable[[Any], torch.optim.Optimizer]) -> Compiled:
    """What the second step is as one graph of `torch.compile`.

    Raises:
        torch._dynamo.exc.Unsupported: it is no single graph, as where a value is read on the host.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    points = [weights.manifold.random_point(*weights.shape) for _ in range(weights.count)]
    params = [nn.Parameter(x.to(device)) for x in points]
    optimizer = make([{"params": params, "manifold": weights.manifold}])
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    torch._dynamo.reset()
    step = torch.compile(lambda: type(optimizer).step(optimizer), fullgraph=True)
    _, codes = run_and_get_code(step)
    calls = [code.partition("def call(")[2].partition("def benchmark")[0] for code in codes]
    kernels, library = (
        sum(len(pattern.findall(call)) for call in calls) for pattern in (_KERNELS, _LIBRARY)
    )
    return Compiled(len(codes), kernels, library)


def _row(weights: Weights, name: str, counted: Launches) -> list[str]:
    wanted = {optimizer: (kernels, products) for optimizer, kernels, products in weights.wanted}
    kernels, products = wanted.get(name, (None, None))
    size = unit(weights.shape, weights.count)
    row = [weights.name, name, str(counted.kernels.total()), _limit(kernels)]
    if not counted.multiplications:
        return [*row, "", "", ""]
    done, exact = counted.multiplications / size, counted.exact_multiplications / size
    return [*row, f"{done:.1f}", _limit(products), f"{exact:.1f}"]


def _limit(number: float | None) -> str:
    return "" if number is None else f"≤ {number}"


def main(
    detail: Annotated[
        str | None, typer.Option(help="List the kernels of these weights, by name.")
    ] = None,
    compile_steps: Annotated[
        bool, typer.Option("--compiled", help="Instead: steps as inductor compiles them.")
    ] = False,
) -> None:
    """Print kernels and matrix products of one step, with what is wanted."""
    if compile_steps:
        _print_compiled()
        return
    table = Table(
        "weights", "optimizer", "kernels", "wanted", "products", "wanted", "of these exact"
    )
    for weights in WEIGHTS:
        if detail is not None and weights.name != detail:
            continue
        for name, make in OPTIMIZERS.items():
            counted = launches(weights, make)
            table.add_row(*_row(weights, name, counted))
            if detail is not None:
                kernels = ", ".join(f"{n} {k}" for k, n in counted.kernels.most_common())
                Console().print(f"{name}: {kernels}")
    Console().print(table)


def _print_compiled() -> None:
    table = Table("weights", "optimizer", "graphs", "kernels", "wanted", "library calls")
    for weights in WEIGHTS:
        wanted = "≤ 3" if isinstance(weights.manifold, Sphere) else ""
        for name, make in OPTIMIZERS.items():
            graphs, kernels, library = compiled(weights, make)
            table.add_row(weights.name, name, str(graphs), str(kernels), wanted, str(library))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
