import csv
import math
from typing import Any

import pytest
import torch

from ggmi_callbacks.verification import Blend, LanguageDesign, MarkovSource, all_sequences, language_study
from ggmi_callbacks.verification import language_models as study
from ggmi_callbacks.verification.language_report import correlations, pearson, report, write_csv
from ggmi_callbacks.verification.transformer import Fleet, code_lengths, train

BLENDS = [(0.5, 0.3, 0.2), (0.0, 0.6, 0.4), (0.2, 0.0, 0.8), (0.7, 0.3, 0.0)]
SMALL = LanguageDesign(seeds=2, n_anchor=16, n_synthetic=(16, 32), copies=(0.0, 0.9), knows=(0.5,), steps=8)


@pytest.fixture(scope="module")
def outcomes():
    return language_study(SMALL, progress=False)


def entropy(p: torch.Tensor) -> float:
    return float(torch.special.entr(p).sum())


def test_all_sequences_are_each_there_once():
    sequences = all_sequences(3, 4)
    assert sequences.shape == (81, 4)
    assert len(sequences.unique(dim=0)) == 81


def test_source_is_a_law_stationary_and_of_the_entropy_that_enumeration_gives(rng):
    source = MarkovSource.random(3, rng)
    law = source.log_prob(all_sequences(3, 5)).exp()
    assert float(law.sum()) == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(source.start @ source.transition, source.start)
    assert float(source.entropy(5)) == pytest.approx(entropy(law), abs=1e-10)


def test_source_samples_have_its_law(rng):
    source = MarkovSource.random(3, rng)
    x = source.sample(50_000, 2, rng)
    counts = torch.bincount(3 * x[:, 0] + x[:, 1], minlength=9)
    law = source.log_prob(all_sequences(3, 2)).exp()
    chi_squared = ((counts - 50_000 * law).square() / (50_000 * law)).sum()
    assert float(chi_squared) < 26.1  # 8 degrees of freedom, one run in a thousand


@pytest.mark.parametrize("shares", BLENDS)
def test_information_gain_of_a_blend_is_that_of_enumeration(shares, rng):
    source, blend = MarkovSource.random(3, rng), Blend(*shares, MarkovSource.random(3, rng))  # type: ignore[call-arg]
    sequences = all_sequences(3, 4)
    given = blend.log_probs(sequences, sequences[:, None]).sum(-1).exp()  # [x, y]
    torch.testing.assert_close(given.sum(-1), torch.ones(81).double())
    exact = sum(float(p) * entropy(row) for p, row in zip(source.log_prob(sequences).exp(), given, strict=True))
    assert float(blend.information_gain(source, 4)) == pytest.approx(exact, abs=1e-10)


def test_pure_blends_add_nothing_all_of_their_own_or_all_noise(rng):
    source, own = MarkovSource.random(4, rng), MarkovSource.random(4, rng)
    assert float(Blend(1.0, 0.0, 0.0, own).information_gain(source, 6)) == 0.0
    assert float(Blend(0.0, 1.0, 0.0, own).information_gain(source, 6)) == pytest.approx(float(own.entropy(6)))
    assert float(Blend(0.0, 0.0, 1.0, own).information_gain(source, 6)) == pytest.approx(6 * math.log(4))


def test_blend_samples_have_their_stated_probabilities(rng):
    source = MarkovSource.random(4, rng)
    blend = Blend(0.4, 0.4, 0.2, MarkovSource.random(4, rng))
    x = source.sample(20_000, 5, rng)
    surprise = -blend.log_probs(blend.sample(x, rng), x).sum(-1)
    error = float(surprise.std()) / math.sqrt(20_000)
    assert abs(float(surprise.mean()) - float(blend.information_gain(source, 5))) < 4 * error


def test_fleet_gives_laws_that_are_causal_and_uniform_to_begin_with(rng):
    fleet, sequences = Fleet(3, 4, 5, rng), all_sequences(4, 5)
    torch.testing.assert_close(code_lengths(fleet, sequences[:7]), torch.full((3, 7), 5 * math.log(4)))
    torch.nn.init.normal_(fleet.head, generator=rng)
    law = (-code_lengths(fleet, sequences)).double().exp()
    torch.testing.assert_close(law.sum(-1), torch.ones(3).double(), atol=1e-5, rtol=0)
    assert law.std() > 1e-5
    # Causal: summed over the last two tokens it is the law of the first three.
    shorter = (-code_lengths(fleet, all_sequences(4, 3))).double().exp()
    torch.testing.assert_close(law.view(3, 64, 16).sum(-1), shorter, atol=1e-6, rtol=1e-4)


def test_models_of_a_fleet_share_nothing(rng):
    y = torch.randint(4, (2, 40, 5), generator=rng)
    changed = y.clone()
    changed[1] = torch.randint(4, (40, 5), generator=rng)
    sizes = torch.tensor([40, 24])
    results = []
    for data in (y, changed):
        fleet = Fleet(2, 4, 5, torch.Generator().manual_seed(3))
        train(fleet, data, sizes, 6)
        results.append(code_lengths(fleet, y[0]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-6)
    assert (results[0][1] - results[1][1]).abs().max() > 1e-2


def test_first_visits_are_coded_before_the_update_that_uses_them(rng):
    y = torch.randint(4, (2, 70, 5), generator=rng)
    first = train(Fleet(2, 4, 5, rng), y, torch.tensor([70, 20]), 2)
    torch.testing.assert_close(first[0, :32], torch.full((32,), 5 * math.log(4)))  # the first batch: uniform
    assert not torch.allclose(first[0, 32:64], torch.full((32,), 5 * math.log(4)))
    assert first[0, 64:].isnan().all()  # their turn never came
    assert first[1, 20:].isnan().all()  # not samples of this model
    torch.testing.assert_close(first[1, :20], torch.full((20,), 5 * math.log(4)))  # later visits change nothing


def test_a_trained_model_nears_the_entropy_of_the_source_from_above(rng):
    source, sequences = MarkovSource.random(4, rng), all_sequences(4, 4)
    fleet = Fleet(1, 4, 4, rng)
    train(fleet, source.sample(6400, 4, rng)[None], torch.tensor([6400]), 200)
    loss = (source.log_prob(sequences).exp() * code_lengths(fleet, sequences)[0]).sum()
    excess = float(loss - source.entropy(4))
    assert 0 <= excess < 0.1


def test_study_measures_every_generator_at_every_size(outcomes):
    assert [(o.generator.copy, o.n_synthetic) for o in outcomes] == [(0.0, 16), (0.0, 32), (0.9, 16), (0.9, 32)]
    own = outcomes[0].generator
    exact = torch.stack([b.information_gain(s, 5) for b, s in zip(own.blends, sources(), strict=True)]).mean()
    assert own.gain == pytest.approx(float(exact))


def sources() -> list[MarkovSource]:
    rng = torch.Generator().manual_seed(SMALL.seed)
    return [MarkovSource.random(5, rng) for _ in range(SMALL.seeds)]


def test_twins_share_prompts_and_follow_the_law_that_exact_losses_are_taken_over(monkeypatch):
    monkeypatch.setattr(study, "_outcome", lambda design, trained, index, generator, n: (trained, n))
    design = LanguageDesign(seeds=3, steps=15, copies=(0.0, 0.5, 1.0), knows=(0.7,))
    outcome: Any = language_study(design, progress=False)[0]  # as the patch above makes it
    trained, _ = outcome
    sizes = [64] * 3 + ([64] * 3 + [256] * 3) * 3  # anchors, then each generator at each size
    z = []
    for twin, exact, n in zip(trained.twin[:15], trained.own_loss[:15], sizes, strict=False):
        z.append((float(twin[:n].mean()) - float(exact)) / (float(twin[:n].std()) / math.sqrt(n)))
    # Twins of outputs keep their prompts, so their mean varies a little less than stated.
    assert abs(sum(z) / len(z)) < 4 / math.sqrt(len(z))
    assert max(map(abs, z)) < 4.5
    # Pure copies of the same prompt are the same sequence, and the law is that of the prompts themselves.
    torch.testing.assert_close(trained.twin[15:], trained.final[15:])
    for final, exact, n in zip(trained.final[15:], trained.own_loss[15:], sizes[15:], strict=True):
        assert float(final[:n].mean()) == pytest.approx(float(exact), abs=1e-4)


def test_gaps_are_exact_losses_minus_losses_on_the_training_set():
    flat = torch.ones(4, 3).double()
    trained = study.Trained(
        first=4 * flat,
        final=torch.tensor([2.0, 2.5, 1.0, 1.0]).double()[:, None] * flat,
        twin=3 * flat,
        own_loss=torch.tensor([5.0, 5.0, 2.0, 4.0]).double(),
        source_loss=torch.tensor([5.0, 5.0, 4.0, 5.5]).double(),
    )
    design = LanguageDesign(seeds=2, n_anchor=3, n_synthetic=(3,))
    outcome = study._outcome(design, trained, 0, None, 3)
    assert float(outcome.generalisation_gap_difference.value) == pytest.approx(((3.0 + 2.5) - (1.0 + 3.0)) / 2)
    assert float(outcome.kl_gap.value) == pytest.approx((1.0 - 0.5) / 2)
    assert float(outcome.ggmi_mixture.value) == pytest.approx(1.75 - 3.0)


def test_study_is_a_function_of_its_seed(outcomes, tmp_path):
    write_csv(outcomes, tmp_path / "first.csv")
    write_csv(language_study(SMALL, progress=False), tmp_path / "second.csv")
    assert (tmp_path / "first.csv").read_text() == (tmp_path / "second.csv").read_text()
    with (tmp_path / "first.csv").open() as file:
        row = next(csv.DictReader(file))
    assert float(row["information_gain_exact"]) == pytest.approx(outcomes[0].generator.gain, rel=1e-4)


def test_report_states_correlations_with_intervals(outcomes):
    found = correlations(outcomes)
    value, low, high = found["GGMI, loss difference, difference of generalisation gaps"]
    assert -1 <= low <= value <= high <= 1
    assert "| GGMI, loss difference, difference of generalisation gaps |" in report(outcomes)


def test_pearson_is_torchs_correlation_and_zero_for_a_constant(rng):
    x = torch.randn(2, 30, generator=rng)
    assert float(pearson(*x)) == pytest.approx(float(torch.corrcoef(x)[0, 1]), abs=1e-6)
    assert float(pearson(x[0], torch.ones(30))) == 0.0
