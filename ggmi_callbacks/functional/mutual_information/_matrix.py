"""Matrix-based information of samples: a relative measure between zero and log n, from Gram matrices."""

from __future__ import annotations

from torch import Tensor

from ggmi_callbacks.functional._estimate import Estimate, total
from ggmi_callbacks.functional.matrix_entropy import gram_entropy, gram_matrix


def matrix_information(variables: list[Tensor], pointwise: bool) -> Estimate:
    """S(x, z) + S(y, z) - S(z) - S(x, y, z); the joint Gram matrix is the product of the single ones."""
    x, y, *rest = [gram_matrix(v) for v in variables]
    if not rest:
        plus, minus = [x, y], [x * y]
    else:
        (z,) = rest
        plus, minus = [x * z, y * z], [z, x * y * z]

    def entropies(grams: list[Tensor]) -> list[Estimate]:
        return [gram_entropy(gram, pointwise=pointwise) for gram in grams]

    return total(entropies(plus), entropies(minus))
