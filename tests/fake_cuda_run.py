"""Steps on tensors that say they are on a GPU and hold no data; prints a report as JSON.

    python -m tests.fake_cuda_run

A process of its own, as it pretends that there is a device in all of it. What `meta` tensors cannot
show is shown here: `capturable=True`, which torch accepts on a GPU only, and copies between
devices.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import riemopt
from riemopt.linalg import backends
from riemopt.manifolds import Stiefel
from tests.test_no_host_sync import FEW, MANIFOLDS, OPTIMIZERS, SYNCHRONISING, NoHostSync

ADAMS = ("adam", "adamw", "point", "carried")
HALF_PRECISION = ("sphere", "stiefel", "stiefel-cayley", "symmetric")

LIBRARY = "fake_cuda"
LOADED = "RIEMOPT_FAKE_CUDA_LOADED"


def run_with_a_device() -> None:
    """Build the library of `fake_cuda.cpp`, and start again with it loaded before torch."""
    if torch.backends.cuda.is_built() or os.environ.get(LOADED):
        return
    from torch.utils.cpp_extension import load

    folder = tempfile.mkdtemp()
    source = pathlib.Path(__file__).with_name(f"{LIBRARY}.cpp")
    load(LIBRARY, [str(source)], ["-O0"], is_python_module=False, build_directory=folder)
    library = pathlib.Path(folder, f"{LIBRARY}.so")
    torch_libraries = str(pathlib.Path(torch.__file__).parent / "lib")
    environment = {LOADED: "1", "LD_PRELOAD": str(library), "LD_LIBRARY_PATH": torch_libraries}
    command = [sys.executable, "-m", "tests.fake_cuda_run"]
    code = subprocess.run(command, env={**os.environ, **environment}).returncode
    shutil.rmtree(folder)
    sys.exit(code)


def parameters(shape, dtype=torch.float32, count=3):
    return [nn.Parameter(torch.randn(shape, device="cuda", dtype=dtype)) for _ in range(count)]


def step_twice(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.randn_like(p)
    with NoHostSync("cuda") as mode:
        optimizer.step()
        optimizer.step()
    assert mode.dispatched > 0
    for group in optimizer.param_groups:
        for p in group["params"]:
            state = optimizer.state[p]
            assert not isinstance(optimizer, torch.optim.Adam) or "step" in state
            for key, value in state.items():
                assert value.device.type == "cuda", f"{key} is on {value.device}"


def build(make, case="stiefel", dtype=torch.float32, *, plain=True, **options):
    manifold, shape = MANIFOLDS[case]
    groups = [{"params": parameters(shape, dtype), "manifold": manifold}]
    if plain:
        groups.append({"params": parameters((5,), count=1)})
    if make in (*ADAMS, "muon") and "fused" not in options:
        options["capturable"] = True
    return OPTIMIZERS[make](groups, **options)


def with_tensor_lr(optimizer):
    for group in optimizer.param_groups:
        group["lr"] = torch.full((), 0.1, device="cuda")
    return optimizer


def step_with_tensors_for_numbers(make, case):
    # torch's SGD reads a tensor lr on the host, so no unconstrained parameters here.
    optimizer = with_tensor_lr(build(make, case, plain=False))
    if make in ("point", "carried"):  # torch's own step reads tensor betas on the host
        optimizer.param_groups[0]["betas"] = tuple(torch.full((2,), 0.9, device="cuda").unbind())
    step_twice(optimizer)


def step_scaled(make):
    """As under a GradScaler that leaves the unscaling to the optimizer."""
    optimizer = build(make, plain=False, fused=True)
    optimizer.grad_scale = torch.full((), 1024.0, device="cuda")
    optimizer.found_inf = torch.zeros((), device="cuda")
    step_twice(optimizer)


def step_with_the_state_of_torch():
    """A checkpoint of torch's Adam, `step` on the CPU."""
    params = parameters((6, 3))
    other = torch.optim.Adam(params)
    group = {"params": params, "manifold": Stiefel()}
    optimizer = riemopt.RiemannianAdam([group], capturable=True)
    for p in params:
        p.grad = torch.randn_like(p)
    other.step()
    saved = other.state_dict()
    saved["param_groups"][0]["capturable"] = True
    optimizer.load_state_dict(saved)
    step_twice(optimizer)


def step_after_release():
    """Unconstrained later: `step` stays where capturable needs it."""
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.randn(6, 3, device="cuda"))
    manifold = Stiefel()
    optimizer = riemopt.RiemannianAdam(
        [{"params": layer.weight, "manifold": manifold}], capturable=True
    )
    step_twice(optimizer)
    optimizer._manifold_changed(layer.weight, None)
    step_twice(optimizer)


def attempt(function: Callable[[], object]) -> str:
    """An empty string, or what went wrong."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def steps() -> dict[str, str]:
    cases = {}
    for make in OPTIMIZERS:
        for case in MANIFOLDS if make in ("adam", "point") else FEW:
            here = f"{make}, {case}"
            cases[here] = lambda a=(make, case): step_twice(build(*a))
            cases[f"{here}, tensors"] = lambda a=(make, case): step_with_tensors_for_numbers(*a)
            if case in HALF_PRECISION:
                cases[f"{here}, half"] = lambda a=(make, case): step_twice(
                    build(*a, torch.bfloat16)
                )
        cases[f"{make}, scaled"] = lambda make=make: step_scaled(make)
    for make in ADAMS:
        cases[f"{make}, tensor lr"] = lambda make=make: step_twice(with_tensor_lr(build(make)))
        cases[f"{make}, fused"] = lambda make=make: step_twice(build(make, fused=True))
    cases["state of torch's Adam"] = step_with_the_state_of_torch
    cases["released"] = step_after_release
    return {name: attempt(case) for name, case in cases.items()}


def detected(function: Callable[[], object]) -> str:
    def watched() -> None:
        with NoHostSync("cuda"):
            function()

    return attempt(watched)


def plants() -> dict[str, str]:
    """What the mode says of mistakes planted here and inside a step; an empty string is a miss."""
    p = torch.randn(3, 3, device="cuda")
    host = torch.ones(3, 3)
    found = {name: detected(lambda bad=bad: bad(p)) for name, bad in SYNCHRONISING.items()}
    found["copy from the host"] = detected(lambda: p.copy_(host))
    found["move from the host"] = detected(lambda: host.to("cuda"))
    found["number from the host"] = detected(lambda: torch.tensor(1.0, device="cuda"))
    found["torch's SGD with a tensor lr"] = attempt(
        lambda: step_twice(with_tensor_lr(build("sgd")))
    )
    for make in OPTIMIZERS:
        curve = "spectral_curve" if make == "muon" else "curve_with_fraction"
        for name, mistake in mistakes(curve).items():
            with mistake:
                found[f"{make} {name}"] = attempt(lambda make=make: step_twice(build(make)))
    return found


def mistakes(curve: str):
    """Some are planted in the method of a manifold by which an optimizer moves points."""
    return {
        "treats the device as the host": mock.patch.object(
            backends, "reads_are_free", return_value=True
        ),
        "polar factor by an SVD": mock.patch.object(
            Stiefel, curve, lambda self, x, u, t: (self.project(x + t * u), None)
        ),
        "asks whether to move": mock.patch.object(
            Stiefel,
            curve,
            lambda self, x, u, t: (x + t * u if u.isfinite().all() else x, None),
        ),
    }


def main() -> None:
    run_with_a_device()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # What a level set closes over is a real tensor until it is moved.
    with FakeTensorMode(allow_non_fake_inputs=True):
        report = {"steps": steps(), "plants": plants()}
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
