"""Which back end computes: the one that may read values, or the one that reads nothing.

An eager CPU tensor can be looked at for free, and kernels let the number of their products follow
the data there. Elsewhere a read makes an accelerator wait, breaks a graph of torch.compile, or is
impossible (meta, fake and functorch tensors), and the number of products is fixed. These questions
are asked in `riemopt.linalg` and nowhere else: the kernels here pick the algorithm.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from riemopt._torch_versions import may_have_saved_tensor_hooks

_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


is_traced = torch.compiler.is_compiling
"""Whether torch.compile or torch.export is making a graph of what is called."""


def eager_only(function: Callable[..., None]) -> Callable[..., None]:
    """`function`, that does nothing where torch.compile or torch.export traces it."""

    @functools.wraps(function)
    def in_eager_mode(*args: Any) -> None:
        if not torch.compiler.is_compiling():
            function(*args)

    return in_eager_mode


def is_wrapped(a: Tensor) -> bool:
    """Whether `a` belongs to a transform of torch.func, such as vmap or grad."""
    return _is_wrapped(a)


def refuse_nested_forward_mode(what: str) -> None:
    """Raise NotImplementedError where forward mode is differentiated by forward mode.

    There torch drops, without a word, the derivative of what a custom `jvp` computes.
    """
    stack = torch._C._functorch.get_interpreter_stack() or []
    jvp = torch._C._functorch.TransformType.Jvp
    if sum(level.key() == jvp for level in stack) > 1:
        raise NotImplementedError(
            f"{what} has no forward mode within forward mode, as jacfwd(jacfwd(f)) takes it. "
            "Write jacfwd(jacrev(f)), which is torch.func.hessian, or jacrev(jacrev(f))."
        )


def reads_are_free(*tensors: Tensor) -> bool:
    """Whether Python can read values of all `tensors` for free: real CPU tensors, in eager mode."""
    if torch.compiler.is_compiling():
        return False
    for a in tensors:  # noqa: SIM110 (a loop is faster, and this is asked many times in a step)
        if type(a) is not Tensor or not a.is_cpu or _is_wrapped(a):
            return False
    return True


def can_be_read(a: Tensor) -> bool:
    """Whether `a` has values that Python can read, though it may have to wait for them."""
    return type(a) is Tensor and not a.is_meta and not is_traced() and not is_wrapped(a)


def adaptive(like: Tensor) -> bool:
    """Whether algorithms on tensors like this one are adaptive: they look if they have arrived.

    For algorithms that are not in `riemopt.linalg`, which pick one of two by it. The other has a
    fixed length.
    """
    return reads_are_free(like)


def rounds(like: Tensor, *, at_most: int, fixed: int) -> range:
    """The rounds of an iteration: `at_most` where a stopping test ends it, else `fixed` ones."""
    return range(at_most if adaptive(like) else fixed)


def needs_functional_derivatives() -> bool:
    """Whether torch.func alone gives derivatives that others see through.

    So it is in a graph of torch.compile, which cannot hold a call of `torch.autograd.grad`, inside
    a transform of torch.func, and where forward-mode derivatives may be under way.
    """
    if is_traced():
        return True
    inside = torch._C._functorch.peek_interpreter_stack() is not None
    return inside or torch.autograd.forward_ad._current_level >= 0


def internal_graph() -> AbstractContextManager[Any]:
    """For derivatives that are part of a computation: autograd records, whatever is set outside.

    So it does in inference mode, too. Results are not tested for NaN by anomaly detection: a NaN
    may be expected, and where several derivatives are taken at once the test raises. What is saved
    is needed at once, and not given to hooks such as those of torch.utils.checkpoint.
    """
    if is_traced() or not (
        torch.is_inference_mode_enabled()
        or torch.is_anomaly_enabled()
        or may_have_saved_tensor_hooks()
    ):
        return torch.enable_grad()
    return _in_other_modes()


@contextmanager
def _in_other_modes() -> Iterator[None]:
    anomaly, check_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    torch.set_anomaly_enabled(anomaly, False)
    keep = torch.autograd.graph.saved_tensors_hooks(lambda a: a, lambda a: a)
    try:
        with torch.inference_mode(False), torch.enable_grad(), keep:
            yield
    finally:
        torch.set_anomaly_enabled(anomaly, check_nan)


def is_recorded_outside(x: Tensor) -> bool:
    """Whether torch.compile, a transform of torch.func or autograd records what is called on x."""
    return is_traced() or is_wrapped(x) or torch.is_grad_enabled()


def known_any(condition: Tensor) -> bool:
    """True only if some entry is known, for free, on the host to be True."""
    return reads_are_free(condition) and bool(condition.any())


def known_values(tensor: Tensor) -> list[Any] | None:
    """The entries of a vector where they are known for free, else None."""
    return tensor.tolist() if reads_are_free(tensor) else None


def places_in_memory(tensors: Sequence[Tensor]) -> list[int]:
    """The address of each tensor's values; none of tensors that stand for data which is nowhere."""
    return [] if type(tensors[0]) is not Tensor else [t.data_ptr() for t in tensors]


def identities(tensors: Sequence[Tensor]) -> list[int] | None:
    """Which objects these are; None in a graph, whose tensors stand for others.

    Not references, which would keep exchanged tensors in memory.
    """
    return None if is_traced() else list(map(id, tensors))


def known_all(condition: Tensor) -> bool:
    """True only if every entry is known, for free, on the host to be True.

    False where it cannot be read. A short cut that is right where it is taken, and not needed where
    it is not: `y if known_all(good) else torch.where(good, y, x)`.
    """
    return reads_are_free(condition) and bool(condition.all())


def known_to_exceed(a: Tensor, b: Tensor, factor: float) -> bool:
    """True only if each entry of `a` is known, for free, to be above factor·b."""
    if not reads_are_free(a, b):
        return False
    if a.numel() == 1:
        return bool(a.item() > factor * b.item())
    return not a.numel() or bool(torch.sub(a, b, alpha=factor).amin().item() > 0)


def known_to_be_below(a: Tensor, limit: float) -> bool:
    """True only if each entry of `a` is known, for free, to be below `limit`."""
    return reads_are_free(a) and (not a.numel() or bool(a.amax().item() < limit))


def known_finite(a: Tensor) -> bool:
    """True only if every entry is known, for free, to be finite."""
    if not reads_are_free(a):
        return False
    # The norm of all is the fastest look; where squares overflow, the entries decide.
    return math.isfinite(torch.linalg.vector_norm(a).item()) or bool(a.isfinite().all())


def steps_are_known_to_count(u: Tensor, t: float | Tensor) -> bool:
    """True only if each step t·u of a stack `(K, …)` is known, for free, to be finite and not 0."""
    if not reads_are_free(u) or (isinstance(t, Tensor) and not reads_are_free(t)) or not u.numel():
        return False
    if not isinstance(t, Tensor):
        low = high = t
    elif t.numel() == 1:
        low = high = t.item()
    else:
        low, high = (factor.item() for factor in torch.aminmax(t))
    least = low if low > 0 else -high  # where all factors have one sign
    numbers = torch.finfo(u.dtype)
    if u.shape[0] == 1:
        # No entry is above the norm, and one is at least its share. Where squares are not in the
        # range of the dtype, the entries decide.
        norm = torch.linalg.vector_norm(u).item()
        share = norm / math.sqrt(u.numel())
        if share * least > numbers.tiny and norm * max(high, -low) < numbers.max:
            return True
    flat = (torch.view_as_real(u) if u.is_complex() else u).reshape(len(u), -1)
    sizes = torch.maximum(flat.amax(1), -flat.amin(1))
    smallest, largest = sizes.amin().item(), sizes.amax().item()
    return smallest * least > numbers.tiny and largest * max(high, -low) < numbers.max


def host_beside(like: Tensor) -> torch.device:
    """The CPU; in a graph of torch.compile, which is for one device, that of `like`."""
    return like.device if torch.compiler.is_compiling() else torch.device("cpu")


def has_tf32(like: Tensor) -> bool:
    """Whether products of tensors like this one may be told to round their inputs to TF32.

    What a device makes of it is its own affair: one that has no TF32 multiplies in float32.
    """
    return like.device.type != "cpu" and like.dtype in (torch.float32, torch.complex64)


# A fact of the machine, asked once: a graph of torch.compile could not ask.
_CPU_MULTIPLIES_BFLOAT16 = getattr(torch.cpu, "_is_amx_tile_supported", bool)()


def multiplies_bfloat16(like: Tensor) -> bool:
    """Whether products of tensors like this one, in float32, are faster once rounded to bfloat16.

    So they are on accelerators, and on a CPU that has matrix units.
    """
    if like.dtype != torch.float32 or like.is_meta:
        return False
    return _CPU_MULTIPLIES_BFLOAT16 if like.device.type == "cpu" else like.device.type == "cuda"


def sums_exactly(a: Tensor) -> torch.dtype:
    """The dtype for sums of a few products that cancel: float64, if the device of `a` has it."""
    return torch.float32 if a.device.type == "mps" else torch.float64
