"""Unit quaternions (w, x, y, z) and rotations of space."""

import torch
from torch import Tensor

from riemopt.linalg.products import skew, sym


def rotation_of_quaternion(q: Tensor) -> Tensor:
    """The rotation v ↦ q·v·q⁻¹, `(*, 3, 3)`, of quaternions `(*, 4)` of any length but 0.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import rotation_of_quaternion
        >>> rotation_of_quaternion(torch.tensor([1.0, 0.0, 0.0, 1.0]))  # a quarter turn about z
        tensor([[ 0., -1.,  0.],
                [ 1.,  0.,  0.],
                [ 0.,  0.,  1.]])
    """
    w, x, y, z = q.unbind(-1)
    s = 2 / q.square().sum(-1)
    rows = [
        [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
        [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
        [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def quaternion_of_rotation(R: Tensor) -> Tensor:
    """The unit quaternion `(*, 4)` with w ≥ 0 of rotations `(*, 3, 3)`; see `quaternion_of`.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import quaternion_of_rotation
        >>> half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))  # about z
        >>> quaternion_of_rotation(half_turn).abs()
        tensor([0., 0., 0., 1.])
    """
    return quaternion_of(skew(R), sym(R))


def quaternion_of(S: Tensor, C: Tensor) -> Tensor:
    """The unit quaternion with w ≥ 0 of the rotation C + S, S its skew part and C its symmetric.

    From the longest column of 4qqᵀ = [[1 + tr C, 2sᵀ], [2s, 2C + (1 - tr C)I]], s the vector of S
    (Shepperd 1978): no cancellation at any angle, and the imaginary part keeps the relative
    accuracy of a small S. At a half turn q and -q are the same rotation, and either is returned.
    """
    trace = C.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    s = 2 * vector_of(S).unsqueeze(-1)
    eye = torch.eye(3, dtype=C.dtype, device=C.device)
    top = torch.cat([1 + trace, s.mT], -1)
    K = torch.cat([top, torch.cat([s, 2 * C + (1 - trace) * eye], -1)], -2)
    longest = K.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = torch.take_along_dim(K, longest[..., None, None], -1).squeeze(-1)
    q = q / torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def vector_of(S: Tensor) -> Tensor:
    """The vector ω of a skew matrix with S·v = ω × v, `(*, 3)`."""
    return torch.stack([S[..., 2, 1], S[..., 0, 2], S[..., 1, 0]], -1)


def skew_of(omega: Tensor) -> Tensor:
    """The skew matrix of ω × ·, `(*, 3, 3)`.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import skew_of
        >>> omega, v = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
        >>> skew_of(omega) @ v, torch.linalg.cross(omega, v)
        (tensor([0., 1., 0.]), tensor([0., 1., 0.]))
    """
    x, y, z = omega.unbind(-1)
    o = torch.zeros_like(x)
    rows = [[o, -z, y], [z, o, -x], [-y, x, o]]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
