"""What is known on the host for free. Where it is not, an iteration has a fixed length."""

from torch import Tensor

from riemopt.linalg import host_readable


def reads_are_free(*tensors: Tensor) -> bool:
    """Whether values of all these can be read by Python without waiting: CPU tensors, eagerly."""
    return all(map(host_readable, tensors))


def known_all(condition: Tensor) -> bool:
    """True only if every entry is known for free to be True; False where it cannot be read."""
    return reads_are_free(condition) and bool(condition.all())


def known_any(condition: Tensor) -> bool:
    """True only if some entry is known for free to be True; False where it cannot be read."""
    return reads_are_free(condition) and bool(condition.any())


def rounds(like: Tensor, *, at_most: int, fixed: int) -> range:
    """The rounds of an iteration on tensors like `like`.

    Up to `at_most` where a stopping test can be read and ends it; `fixed` ones elsewhere.
    """
    return range(at_most if reads_are_free(like) else fixed)
