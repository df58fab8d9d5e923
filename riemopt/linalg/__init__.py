"""Kernels on batches of matrices and vectors: products, polar factors, norms, Cayley transforms.

    >>> Y = X + xi                      # X has orthonormal columns, xi is tangent at X
    >>> polar(Y)                        # the nearest matrix with orthonormal columns

Everything here is a function of tensors alone and knows no manifold. Matrices are the last two
dimensions, the leading ones are a batch, and complex matrices use the conjugate transpose. A
*wide* matrix stands for its transpose: `gram` and `right_multiply` hide the orientation, so that
no formula is written twice and no n×n matrix is ever formed for an n×p point with p < n.

Which algorithm serves which tensors is decided here and nowhere else (`backends`). No function of
a step synchronises with the host: a value is read only where that costs nothing.
"""

from riemopt.linalg.autocast import outside_autocast
from riemopt.linalg.backends import (
    adaptive,
    is_recorded_outside,
    is_traced,
    known_all,
    known_any,
    known_values,
    rounds,
    steps_are_known_to_count,
)
from riemopt.linalg.cholesky import (
    along_factor,
    cholesky,
    cholesky_beside_identity,
    colour,
    from_factor,
    is_positive_definite,
    keep_definite,
    real_diagonal,
    to_factor,
    whiten,
)
from riemopt.linalg.copies import Copies
from riemopt.linalg.derivatives import derivative_of_inner
from riemopt.linalg.exponential import cayley, cayley_coefficients, matrix_exp
from riemopt.linalg.hermitian import (
    EXP,
    LOG,
    LOG1P,
    SQRT,
    eigh,
    hermitian_derivative,
    hermitian_difference,
    hermitian_function,
    hermitian_second,
    lyapunov,
)
from riemopt.linalg.numbers import divide, maximum, on_host_numbers, root_plus
from riemopt.linalg.orthonormal import mean_along_columns, tangent_to_columns
from riemopt.linalg.polar import (
    cubic_step,
    inverse_root,
    polar,
    polar_step,
    project_polar,
    small_correction,
)
from riemopt.linalg.polynomials import step_cap
from riemopt.linalg.positive import log_ratio, positive_step
from riemopt.linalg.products import (
    HALF,
    add_identity,
    add_product,
    add_scaled,
    average,
    combine,
    exact_products,
    gram,
    gram_defect,
    identity_like,
    inner,
    is_square,
    is_wide,
    largest_entries,
    plus_adjoint,
    product,
    right_multiply,
    skew,
    squared_norm,
    sym,
    upcast,
)
from riemopt.linalg.qr import inverse_cholesky, qr_positive
from riemopt.linalg.spheres import (
    mean_along_sphere,
    move_and_normalise,
    normalise,
    tangent_to_sphere,
)
from riemopt.linalg.steps import cap_norm, cubic_cut

__all__ = [
    "EXP",
    "HALF",
    "LOG",
    "LOG1P",
    "SQRT",
    "Copies",
    "adaptive",
    "add_identity",
    "add_product",
    "add_scaled",
    "along_factor",
    "average",
    "cap_norm",
    "cayley",
    "cayley_coefficients",
    "cholesky",
    "cholesky_beside_identity",
    "colour",
    "combine",
    "cubic_cut",
    "cubic_step",
    "derivative_of_inner",
    "divide",
    "eigh",
    "exact_products",
    "from_factor",
    "gram",
    "gram_defect",
    "hermitian_derivative",
    "hermitian_difference",
    "hermitian_function",
    "hermitian_second",
    "identity_like",
    "inner",
    "inverse_cholesky",
    "inverse_root",
    "is_positive_definite",
    "is_recorded_outside",
    "is_square",
    "is_traced",
    "is_wide",
    "keep_definite",
    "known_all",
    "known_any",
    "known_values",
    "largest_entries",
    "log_ratio",
    "lyapunov",
    "matrix_exp",
    "maximum",
    "mean_along_columns",
    "mean_along_sphere",
    "move_and_normalise",
    "normalise",
    "on_host_numbers",
    "outside_autocast",
    "plus_adjoint",
    "polar",
    "polar_step",
    "positive_step",
    "product",
    "project_polar",
    "qr_positive",
    "real_diagonal",
    "right_multiply",
    "root_plus",
    "rounds",
    "skew",
    "small_correction",
    "squared_norm",
    "step_cap",
    "steps_are_known_to_count",
    "sym",
    "tangent_to_columns",
    "tangent_to_sphere",
    "to_factor",
    "upcast",
    "whiten",
]
