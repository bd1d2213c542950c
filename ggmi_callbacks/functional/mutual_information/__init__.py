r"""Mutual information of samples, in nats, plain and conditional.

Notation:
    x, y, z     [n, d_x], [n, d_y], [n, d_z] n samples of three variables ([n] is read as d = 1)
    I(x; y)     E log p(x, y) / (p(x) p(y)) >= 0; zero only if x and y are independent
    I(x; y | z) I(x; (y, z)) - I(x; z) >= 0

Which estimator where:
    "auto"           measures which of the four below fits, and says so
    "copula"         elliptical dependence with any marginals, dozens of dimensions, n of a few times d; the only
                     one without bias there
    "ksg"            any dependence with a density, up to five dimensions each, n of thousands; too low beyond, and
                     near its ceiling log(n / k): it warns of both
    "canonical_ksg"  any dependence that shows in a few correlated directions of many
    "infonce"        any dependence in many dimensions, n of thousands; a lower bound
    "gaussian"       Gaussian variables (canonical correlations); differentiable
    "matrix"         another quantity: a relative measure between zero and log n, for few samples of embeddings;
                     differentiable. It warns of that, and refuses n > 10,000, as it takes n^2 memory

Copies and ties:
    Samples passed more than once are refused by "auto", "ksg", "canonical_ksg" and "infonce", which would take a copy
    for another sample; the others count them as new ones. Rounded data and counts have ties: "auto" breaks them by
    uniform noise and says so, "ksg" and "canonical_ksg" refuse them where they would bias the estimate.

Estimates below zero are noise about zero and are returned as zero.
"""

from ggmi_callbacks.functional.mutual_information._auto import Choice as MutualInformationChoice
from ggmi_callbacks.functional.mutual_information._by_name import (
    CONDITIONAL_ESTIMATORS,
    ESTIMATORS,
    MutualInformationEstimator,
)
from ggmi_callbacks.functional.mutual_information._choice import choose_estimator
from ggmi_callbacks.functional.mutual_information._conditional import conditional_mutual_information
from ggmi_callbacks.functional.mutual_information._plain import mutual_information

__all__ = [
    "CONDITIONAL_ESTIMATORS",
    "ESTIMATORS",
    "MutualInformationChoice",
    "MutualInformationEstimator",
    "choose_estimator",
    "conditional_mutual_information",
    "mutual_information",
]
