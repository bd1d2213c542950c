"""Matrix-based information."""

from __future__ import annotations

import math

import pytest

from ggmi_callbacks.functional import matrix_entropy
from ggmi_callbacks.functional.matrix_entropy import gram_entropy, gram_matrix
from ggmi_callbacks.metrics import MutualInformation
from tests.functional.mutual_information._pairs import estimate, normal

pytestmark = pytest.mark.filterwarnings("ignore:estimator=.matrix. gives the matrix-based information")


def test_matrix_information_is_the_difference_of_entropies_of_products_of_kernels() -> None:
    x, y, z = normal(3, 40, 2)
    x, y = x + z, y + z
    k_x, k_y, k_z = (gram_matrix(v) for v in (x, y, z))
    s_xz, s_yz, s_z, s_xyz, s_x, s_y, s_xy = (
        float(gram_entropy(k).value) for k in (k_x * k_z, k_y * k_z, k_z, k_x * k_y * k_z, k_x, k_y, k_x * k_y)
    )
    assert estimate(x, y, estimator="matrix") == pytest.approx(s_x + s_y - s_xy, abs=1e-9)
    assert estimate(x, y, z, estimator="matrix") == pytest.approx(s_xz + s_yz - s_z - s_xyz, abs=1e-9)


def test_matrix_information_of_a_copy_exceeds_that_of_shuffled_pairs() -> None:
    x = normal(100, 3)
    copy, shuffled = estimate(x, x, estimator="matrix"), estimate(x, x.flip(0), estimator="matrix")
    assert 0 < shuffled < copy < math.log(100)


def test_the_matrix_estimator_says_that_it_is_another_quantity() -> None:
    x = normal(100, 3)
    with pytest.warns(UserWarning, match=r"a relative measure in \[0, log n\], and not I\(x; y\)"):
        estimate(x, x, estimator="matrix")
    assert MutualInformation("matrix").plot_label == "matrix-based information (nats, relative)"


def test_more_samples_than_n_squared_numbers_have_room_for_are_refused() -> None:
    x = normal(10_001)
    with pytest.raises(
        ValueError, match=r"at most 10000 samples for a Gram matrix, which takes n\^2 numbers, but got 10001"
    ):
        estimate(x, x, estimator="matrix")
    with pytest.raises(ValueError, match="pass a random subsample"):
        matrix_entropy(x)
