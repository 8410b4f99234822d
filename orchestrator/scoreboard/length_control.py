"""Win rates with the judge's taste for length taken out: AlpacaEval 2's logistic model (Dubois et al., 2404.04475)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import config_context
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import make_scorer
from sklearn.model_selection import GroupKFold

Floats = npt.NDArray[np.float64]

_NUM_FOLDS = 5
_SEED = 123
_ROUND_C = 10.0  # a prior of standard deviation 3.2 on each log-odds
_GAMED_WEIGHT = 0.1  # AlpacaEval's regularisation 0.2, shared between its two gamed baselines


@dataclass(frozen=True, kw_only=True)
class LengthControlled:
    """A win rate at equal lengths, as a fraction, with its 95% bootstrap interval (rows of one prompt together).

    length_weight is theta, the log-odds gained by answers much longer than the baseline's (negative where the judge
    likes length: the feature is baseline minus model); method says in words how the figure was estimated.
    """

    win_rate: float
    low: float
    high: float
    length_weight: float
    method: str
    num_rows: int


@dataclass(frozen=True, kw_only=True, eq=False)
class GamedRows:
    """Comparisons of the baseline with versions of itself asked to be shorter or longer: they know theta and no other.

    std_delta_len float[M] is (len_baseline - len_version) / sd, preferences float[M] in [0, 1] for the version.
    """

    std_delta_len: Floats
    preferences: Floats
    difficulties: Floats | None = None


@dataclass(frozen=True)
class _Rows:
    features: Floats
    targets: Floats
    weights: Floats
    num_gamed: int = 0  # that many come first


def length_controlled(
    len_baseline: npt.ArrayLike,
    len_model: npt.ArrayLike,
    preferences: npt.ArrayLike,
    *,
    difficulties: npt.ArrayLike | None = None,
    gamed: GamedRows | None = None,
    prompt_ids: Sequence[str] | None = None,
    num_resamples: int = 200,
) -> LengthControlled | None:
    """AlpacaEval 2's length-controlled win rate: logit P = theta * tanh(delta / sd) + beta * difficulty + b.

    All arrays float[N]: lengths in characters, preferences in [0, 1] for the model. Without difficulties the term
    beta is left out: one comparison an instruction cannot tell how hard the instruction is from how well the model
    did on it. None where lengths or preferences do not vary or rows are fewer than twice the folds. The L1 penalty
    is chosen by cross-validation as in alpaca_eval 0.6.6, `metrics/glm_winrate.py`; the bootstrap keeps that penalty.
    """
    delta = np.asarray(len_baseline, dtype=np.float64) - np.asarray(len_model, dtype=np.float64)
    targets = np.asarray(preferences, dtype=np.float64)
    if len(delta) < 2 * _NUM_FOLDS or not np.ptp(delta) > 0 or not 0 < targets.mean() < 1:
        return None
    d = None if difficulties is None else np.asarray(difficulties, dtype=np.float64)
    if gamed is not None and (gamed.difficulties is None) != (d is None):
        raise ValueError("difficulties must be given for the gamed rows and the model's, or for neither")
    features = _features(delta / delta.std(ddof=1), d, not_gamed=1.0)
    weights = np.ones(len(delta))
    if gamed is not None:
        # Upstream's order, gamed rows first: it decides which rows make a fold.
        features = np.vstack([_features(gamed.std_delta_len, gamed.difficulties, not_gamed=0.0), features])
        targets = np.concatenate([gamed.preferences, targets])
        weights = np.concatenate([np.full(len(gamed.preferences), _GAMED_WEIGHT), weights])
    fitted = _cross_validated(features, targets, weights)
    penalty = float(np.ravel(fitted.C_)[0])
    model = LogisticRegression(C=penalty, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=_SEED)
    rows = _Rows(features, targets, weights, num_gamed=len(targets) - len(delta))
    low, high = _bootstrap(model, rows, prompt_ids, num_resamples)
    return LengthControlled(
        win_rate=_at_equal_length(fitted, features[rows.num_gamed :]),
        low=low,
        high=high,
        length_weight=float(np.ravel(fitted.coef_)[0]),
        method=_method(d is not None, gamed is not None),
        num_rows=len(delta),
    )


def length_controlled_round(
    len_ours: npt.ArrayLike,
    len_theirs: npt.ArrayLike,
    preferences: npt.ArrayLike,
    *,
    prompt_ids: Sequence[str] | None = None,
    min_rows: int = 20,
    num_resamples: int = 200,
) -> LengthControlled | None:
    """The same model for a round's held-out comparisons: a constant and the length term, under a weak ridge.

    Lengths in characters, preferences in [0, 1] for ours. The ridge keeps separable verdicts finite, without folds,
    so tens of prompts are enough. None where it cannot be told apart from a guess: fewer than min_rows comparisons,
    no win or no loss at all, or fewer than two answers on either side of equal length (it would extrapolate).
    """
    delta = np.asarray(len_theirs, dtype=np.float64) - np.asarray(len_ours, dtype=np.float64)
    targets = np.asarray(preferences, dtype=np.float64)
    if len(delta) < min_rows or not 0 < targets.mean() < 1 or min((delta > 0).sum(), (delta < 0).sum()) < 2:
        return None
    rows = _Rows(_features(delta / delta.std(ddof=1), None, not_gamed=1.0), targets, np.ones(len(delta)))
    model = LogisticRegression(C=_ROUND_C, solver="liblinear", fit_intercept=False, random_state=_SEED)
    low, high = _bootstrap(model, rows, prompt_ids, num_resamples)
    _fit(model, rows.features, rows.targets, rows.weights)
    return LengthControlled(
        win_rate=_at_equal_length(model, rows.features),
        low=low,
        high=high,
        length_weight=float(np.ravel(model.coef_)[0]),
        method=f"logistic model of length and a constant, ridge C = {_ROUND_C:g}, fitted to this round alone",
        num_rows=len(delta),
    )


def _features(std_delta: Floats, difficulties: Floats | None, *, not_gamed: float) -> Floats:
    columns = [np.tanh(std_delta), np.full(len(std_delta), not_gamed)]
    return np.column_stack(columns if difficulties is None else [columns[0], difficulties, columns[1]])


def _doubled(features: Floats, targets: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Soft targets y as two rows: label 1 at weight y, label 0 at weight 1 - y."""
    labels = np.repeat([1.0, 0.0], len(targets))
    shares = np.concatenate([targets, 1 - targets])
    return np.vstack([features, features]), labels, shares * np.tile(weights, 2)


def _fit(model: Any, features: Floats, targets: Floats, weights: Floats) -> None:
    rows, labels, row_weights = _doubled(features, targets, weights)
    model.fit(rows, labels, sample_weight=row_weights)


def _soft_log_loss(true: Floats, predicted: Floats, shares: Floats, row_weights: Floats) -> float:
    # Upstream takes y for label 1 and y of the other label's row for label 0: y for both halves, in the end.
    target = np.where(true == 1, shares, 1 - shares)
    predicted = np.clip(predicted, 1e-15, 1 - 1e-15)
    loss = target * np.log(predicted) + (1 - target) * np.log(1 - predicted)
    return float(-np.mean(loss * row_weights))


def _cross_validated(features: Floats, targets: Floats, weights: Floats) -> Any:
    rows, labels, row_weights = _doubled(features, targets, weights)
    with config_context(enable_metadata_routing=True):
        scorer = make_scorer(_soft_log_loss, response_method="predict_proba", greater_is_better=False)
        model = LogisticRegressionCV(
            l1_ratios=(1.0,),
            solver="liblinear",
            fit_intercept=False,
            random_state=_SEED,
            cv=GroupKFold(n_splits=_NUM_FOLDS),
            scoring=scorer.set_score_request(shares=True, row_weights=True),
            use_legacy_attributes=False,
        ).set_fit_request(sample_weight=True)
        return model.fit(
            rows,
            labels,
            sample_weight=row_weights,
            groups=np.tile(np.arange(len(targets)), 2),
            shares=np.concatenate([targets, 1 - targets]),
            row_weights=np.tile(weights, 2),
        )


def _at_equal_length(model: Any, features: Floats, counts: Floats | None = None) -> float:
    equal = features.copy()
    equal[:, 0] = 0.0
    return float(np.average(model.predict_proba(equal)[:, 1], weights=counts))


def _bootstrap(model: Any, rows: _Rows, prompt_ids: Sequence[str] | None, num: int) -> tuple[float, float]:
    """95% percentile interval over resamples of prompts, as weights; the gamed rows stay as they are."""
    own = rows.features[rows.num_gamed :]
    ids = np.arange(len(own)) if prompt_ids is None else np.asarray(prompt_ids)
    names, prompts = np.unique(ids, return_inverse=True)
    rng, rates = np.random.default_rng(_SEED), []
    with config_context(assume_finite=True, skip_parameter_validation=True):  # the same checks, hundreds of times over
        for _ in range(num):
            drawn = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
            counts = drawn[prompts].astype(np.float64)
            if rows.num_gamed == 0 and not 0 < (counts * rows.targets).sum() < counts.sum():
                rates.append(float(rows.targets[counts > 0].mean()))  # all won, or all lost: there is nothing to fit
                continue
            _fit(model, rows.features, rows.targets, rows.weights * np.concatenate([np.ones(rows.num_gamed), counts]))
            rates.append(_at_equal_length(model, own, counts))
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)


def _method(with_difficulty: bool, with_gamed: bool) -> str:
    terms = "length, instruction difficulty and a constant" if with_difficulty else "length and a constant"
    data = "this file and gamed baselines" if with_gamed else "this file alone"
    whole = with_difficulty and with_gamed
    note = "" if whole else "; AlpacaEval's own figure knows more, and can lie ten points and more away"
    return f"AlpacaEval 2's logistic model of {terms}, L1 by 5-fold cross-validation, fitted to {data}{note}"
