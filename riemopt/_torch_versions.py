"""What only some of the supported torch releases have, looked for here and nowhere else.

docs/compatibility.md says what each of them was tried with. At the site stands a name of this file,
so that a line below goes when the oldest supported torch has what it names.

compiled steps (2.13)
    Before, torch.compile raises or computes something else where a torch optimizer's own step is
    in it, as for weights without a constraint. (2.11 does compile rules of this package without
    one: its tracer takes no assignment to an attribute of an optimizer.) A step is refused where
    one graph is asked for, and else runs in eager mode.
capture of graphs (2.10)
    `capturable=True` is checked on every accelerator, before on CUDA, under another name.
precision of products (2.9)
    `fp32_precision` for each back end. Before there was one setting for all of them,
    `torch.set_float32_matmul_precision`.
current accelerator (2.7)
    `torch.accelerator.current_accelerator()` is None where there is none. Before it raised.
saved-tensor hooks (2.7)
    Whether hooks such as those of torch.utils.checkpoint are set can be asked.
AdamW as a kind of Adam (2.7)
    `torch.optim.Adam` takes `decoupled_weight_decay`. Before, AdamW alone had such decay, and was
    no subclass of it.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch._compile import _disable_dynamo
from torch.optim import Adam, Optimizer
from torch.torch_version import TorchVersion

_Function = TypeVar("_Function", bound=Callable[..., Any])


class _OnePrecision:
    """The setting of all back ends, in the words of torch 2.9."""

    _NEW = {"highest": "ieee", "high": "tf32", "medium": "bf16"}  # noqa: RUF012
    _OLD = {new: old for old, new in _NEW.items()}  # noqa: RUF012

    @property
    def fp32_precision(self) -> str:
        return self._NEW[torch.get_float32_matmul_precision()]

    @fp32_precision.setter
    def fp32_precision(self, precision: str) -> None:
        torch.set_float32_matmul_precision(self._OLD[precision])


_HAS_ONE_EACH = hasattr(torch.backends.mkldnn, "matmul")

CUDA_PRODUCTS: Any = torch.backends.cuda.matmul if _HAS_ONE_EACH else _OnePrecision()
"""Its `fp32_precision` says what products of float32 matrices round to on a GPU."""
ALL_PRODUCTS: tuple[Any, ...] = (
    (CUDA_PRODUCTS, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    if _HAS_ONE_EACH
    else (CUDA_PRODUCTS,)
)
"""The settings of all back ends that know more than one precision."""


def current_accelerator() -> torch.device | None:
    """The kind of device that is not the CPU, if this machine has one."""
    try:
        return torch.accelerator.current_accelerator()
    except RuntimeError:
        return None


def may_have_saved_tensor_hooks() -> bool:
    """Whether hooks for what autograd saves may be set; True where torch does not tell."""
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return top is None or top(True) is not None


COMPILES_STEPS: bool = TorchVersion(torch.__version__) >= "2.13"
"""Whether torch.compile makes a graph of the step of any optimizer here."""


def not_compiled(function: _Function) -> _Function:
    """Decorator of a step: torch.compile leaves it alone, with all it calls, if it cannot trace it.

    It runs in eager mode then. With `fullgraph=True` torch raises Unsupported, which shows no more
    of what we know than the name of the function: so that says it.
    """
    if COMPILES_STEPS:
        return function
    left_alone: Any = _disable_dynamo(function)
    left_alone.__name__ = left_alone.__qualname__ = (
        "one graph of an optimizer's step needs torch 2.13 or newer: leave out fullgraph=True"
    )
    return left_alone


check_graph_capture: Any = getattr(
    Optimizer,
    "_accelerator_graph_capture_health_check",
    getattr(Optimizer, "_cuda_graph_capture_health_check", None),
)
"""What an optimizer asks before a step: whether one without `capturable=True` is captured."""

_ADAM_DECAYS_BOTH_WAYS = "decoupled_weight_decay" in inspect.signature(Adam).parameters


def decoupled_weight_decay_of_adam(value: bool) -> dict[str, bool]:
    """That argument of `torch.optim.Adam`, which has none before torch 2.7.

    Raises:
        NotImplementedError: it is asked for there.
    """
    if _ADAM_DECAYS_BOTH_WAYS:
        return {"decoupled_weight_decay": value}
    if value:
        raise NotImplementedError(
            f"decoupled_weight_decay=True needs torch 2.7 or newer, as in torch's own Adam; this "
            f"is torch {torch.__version__}. RiemannianAdamW has such decay in all releases."
        )
    return {}
