r"""Neural mutual information: a contrastive critic, trained with held-out stopping, measured by cross-fitting.

Notation:
    T(x, y)     the critic, an estimate of log p(x, y) / (p(x) p(y)) up to functions of x alone and of y alone
    m           held-out pairs compared at once
    I_NCE       mean_i of T(x_i, y_i) - [log mean_j exp T(x_i, y_j) + log mean_j exp T(x_j, y_i)] / 2, on pairs
                that the critic has not seen: a lower bound on I(x; y) in expectation, at most log m

The critic starts at the Gaussian answer, the leading canonical pairs of the normal scores (as many as help on
held-out pairs), and learns the rest:
    T(x, y) = sum_r c_r p_r q_r - e_r (p_r^2 + q_r^2) + g(x) . h(y) + a(x) + b(y)
with p, q linear in x, y and g, h, a, b small networks; g, a and b start at zero. Where there is nothing to
learn beyond correlations, training stops at once and nothing is lost.

Source: van den Oord et al., arXiv 1807.03748 (2018); Poole et al., ICML 2019, for the bound on held-out data.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ggmi_callbacks.functional._estimate import Estimate, total
from ggmi_callbacks.functional.mutual_information._canonical import canonical_maps, held_out_rank
from ggmi_callbacks.functional.mutual_information._ranks import normal_scores

FEWEST = 50  # samples below which there is nothing to train on

_FOLDS = 5
_BATCH = 256
_HELD_OUT_BATCH = 2048
_ROUNDS = 100  # of at most fifty steps each
_PATIENCE = 6
_HIDDEN = 64
_FEATURES = 8


class Critic(nn.Module):
    """Separable critic that starts at a Gaussian with the given canonical correlations."""

    def __init__(self, correlations: Tensor, d_x: int, d_y: int) -> None:
        super().__init__()
        rank, squared = len(correlations), correlations.square()
        self.product = nn.Parameter(correlations / (1 - squared))
        self.square = nn.Parameter(squared / (1 - squared) / 2)
        self.p, self.q = nn.Linear(d_x, rank, bias=False), nn.Linear(d_y, rank, bias=False)
        self.g, self.h = _network(d_x, _FEATURES), _network(d_y, _FEATURES)
        self.a, self.b = _network(d_x, 1), _network(d_y, 1)
        nn.init.eye_(self.p.weight)
        nn.init.eye_(self.q.weight)
        for network in (self.g, self.a, self.b):
            for parameter in network[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[m, m] critic of all pairs of rows of x [m, d_x] and y [m, d_y]."""
        p, q = self.p(x), self.q(y)
        gaussian = (p * self.product) @ q.T - (p**2 @ self.square)[:, None] - q**2 @ self.square
        return gaussian + self.g(x) @ self.h(y).T + self.a(x) + self.b(y).T


def _network(d_in: int, d_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(d_in, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, d_out)
    )


def nce_terms(critic: Tensor) -> Tensor:
    """[m] summands of I_NCE from the critic of all pairs [m, m]."""
    partition = (critic.logsumexp(0) + critic.logsumexp(1)) / 2 - math.log(len(critic))
    return critic.diagonal() - partition


def infonce_information(variables: list[Tensor], seed: int, progress: bool) -> Estimate:
    """I(x; y) of [x, y], or of [x, y, z] the difference I(x; (y, z)) - I(x; z)."""
    x, y, *z = variables
    joint = _cross_fit(x, torch.cat((y, *z), 1), seed, progress)
    return total([joint], [_cross_fit(x, z[0], seed, progress)]) if z else joint


def _cross_fit(x: Tensor, y: Tensor, seed: int, progress: bool) -> Estimate:
    """I(x; y) of samples [n, d_x], [n, d_y] by five-fold cross-fitting.

    It trains in inference mode too. The caller's random state and gradient mode do not matter and do not change.
    """
    n = len(x)
    if n < FEWEST:
        raise ValueError(
            f'Expected at least {FEWEST} samples for `estimator="infonce"` but got {n}; collect more, or use '
            '"gaussian" or "ksg".'
        )
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's only: nothing below draws on another device
        x, y = normal_scores(x.detach().clone()), normal_scores(y.detach().clone())
        order = torch.randperm(n).to(x.device)
        pointwise = x.new_empty(n)
        with tqdm(total=_FOLDS * _ROUNDS, desc="infonce", leave=False, disable=not progress) as bar:
            for fold in range(_FOLDS):
                test = order[fold::_FOLDS]
                rest = torch.cat([order[f::_FOLDS] for f in range(_FOLDS) if f != fold])
                pointwise[test] = _fit_and_measure(x, y, rest, test, bar)
                bar.update((fold + 1) * _ROUNDS - bar.n)
    return Estimate(pointwise.mean(), pointwise, n)


def _fit_and_measure(x: Tensor, y: Tensor, rest: Tensor, test: Tensor, bar: tqdm) -> Tensor:
    """Train a critic on ``rest``, a fifth of it held out for stopping, and measure it on ``test``."""
    held_out, train = rest[: len(rest) // 5], rest[len(rest) // 5 :]
    to_x, to_y, correlations = canonical_maps(x[train], y[train])
    p, q = x @ to_x, y @ to_y
    rank = held_out_rank(p[held_out], q[held_out], correlations)
    p, q = _with_radius(p), _with_radius(q)
    critic = Critic(correlations[:rank].clamp_max(0.99).float(), p.shape[1], q.shape[1]).to(x.device)
    _train(critic, p, q, train, held_out, bar)
    return _measure(critic, p, q, test).double()


def _with_radius(x: Tensor) -> Tensor:
    """White x [n, d] and its standardised squared length: variables often share no more than their scale."""
    d = x.shape[1]
    radius = (x.square().sum(1, keepdim=True) - d) / math.sqrt(2 * d)
    return torch.cat((x, radius.clamp_max(3.0)), 1).float()


@torch.no_grad()
def _measure(critic: Critic, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    pieces = rows.tensor_split(-(-len(rows) // _HELD_OUT_BATCH))
    return torch.cat([nce_terms(critic(x[piece], y[piece])) for piece in pieces])


def _train(critic: Critic, x: Tensor, y: Tensor, train: Tensor, held_out: Tensor, bar: tqdm) -> None:
    """AdamW until the held-out bound has not risen for a few rounds; the best round is kept."""
    optimizer = torch.optim.AdamW(critic.parameters(), lr=4e-3, weight_decay=1e-2)
    best, state, since = float(_measure(critic, x, y, held_out).mean()), _copy(critic), 0
    for _ in range(_ROUNDS):
        shuffled = train[torch.randperm(len(train)).to(train.device)]
        for rows in shuffled.tensor_split(max(1, len(train) // _BATCH))[:50]:
            loss = -nce_terms(critic(x[rows], y[rows])).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        value = float(_measure(critic, x, y, held_out).mean())
        bar.update()
        since += 1
        if value > best:
            best, state, since = value, _copy(critic), 0
        bar.set_postfix_str(f"held-out {best:.3f} nats")
        if since >= _PATIENCE:
            break
    critic.load_state_dict(state)


def _copy(critic: Critic) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in critic.state_dict().items()}
