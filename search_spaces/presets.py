"""The search spaces that ship, by name.

Data only: each range comes with its reason. The spaces are made for single runs of small networks: 100 to 1,000 steps
with a linearly decaying lr. ``warpadam/config.py`` has the ranges that are possible, ``overrides.py`` changes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from search_spaces.domains import Choice, Domain, Float, Int, Scalar
from search_spaces.errors import SearchSpaceError, must_be_one_of
from search_spaces.space import Parameter, SearchSpace
from search_spaces.strategies import STRATEGY, strategy_parameter

ADAM: Final[Mapping[str, Domain]] = {
    # Three decades and a half: on small tables the best lr was found anywhere from 3e-4 to 0.1, with a decaying lr.
    "lr": Float(low=1e-4, high=0.3, log=True),
    # PyTorch's default, and one on either side: short or noisy runs differ in how much momentum they bear.
    "beta1": Choice(values=(0.8, 0.9, 0.95)),
    # A memory of 20, 100 and 1,000 steps; the last is longer than most runs here, but it is PyTorch's default. Both
    # betas change the loss far less than lr does.
    "beta2": Choice(values=(0.95, 0.99, 0.999)),
    # None, PyTorch's default, and enough to regularise a network that overfits a small dataset.
    "weight_decay": Choice(values=(0.0, 0.01, 0.1)),
}
"""What every arm may tune. One range for all: WarpAdam gets no more freedom on these than the baseline, and less in
`quick`, which keeps its weight decay off."""

LADDER: Final = (1e-2, 1e-3, 3e-2, 3e-3, 0.1, 3e-4)
"""Learning rates that AdamW tries first, in the order in which they made the best of a set better on the tables of
``benchmarks/search``: a short search has a good start."""

_ROTATION: Final = "kronecker/sandwich/rotation"
_WHITENING: Final = "kronecker/pre/whitening"
_DIAGONAL: Final = "diagonal/sandwich/hypergradient"
_KRONECKER: Final = "kronecker/sandwich/hypergradient"
_LOW_RANK: Final = "low_rank/sandwich/hypergradient"
_PAPER: Final = tuple(f"{structure}/pre/hypergradient" for structure in ("diagonal", "low_rank", "kronecker", "full"))

# P moves by about p_lr at each update, as the meta-gradient is normalised. Below 1e-3 it stays near the identity for a
# whole run, and there whitening is best, which has little use for a scale. Factors want 0.003 to 0.03; the learned
# scale of a rotation and a diagonal bear 0.1 to 0.3.
_P_LR: Final = Float(low=1e-3, high=0.3, log=True)
# At 1 the basis is always fresh; at 20 a run of 100 steps still gets five updates.
_META_EVERY: Final = Int(low=1, high=20, log=True)
# In `wide`: off, which leaves Adam, a rotation or a whitening without a learned scale; or on, in steps of about 3.
_P_LR_OR_OFF: Final = Choice(values=(0.0, 0.003, 0.01, 0.03, 0.1, 0.3))
# Off, or a pull that forgets P in about 1,000 or 100 updates: more would undo what one update learns.
_P_DECAY: Final = Choice(values=(0.0, 0.001, 0.01))
# Covariances over 10, 20 or 100 steps: shorter is noise, longer never warms up in a short run.
_COV_BETA: Final = Choice(values=(0.9, 0.95, 0.99))
# 1 is the cheapest there is; beyond 16 columns, on layers of 10 to 100 rows, a Kronecker P mixes more for less.
_RANK: Final = Int(low=1, high=16, log=True)
# A dense block costs its square: 32 is one row of a small layer, 256 already takes most of the time of a step.
_BLOCK_SIZE: Final = Choice(values=(32, 64, 128, 256))


def _point(lr: float, beta1: float = 0.9, beta2: float = 0.95, **others: Scalar) -> dict[str, Scalar]:
    return {"lr": lr, "beta1": beta1, "beta2": beta2, "weight_decay": 0.0, **others}


def _warpadam(
    name: str, strategies: tuple[str, ...], numbers: Mapping[str, Domain], first_trials: tuple[dict[str, Scalar], ...]
) -> SearchSpace:
    strategy = Parameter(name=STRATEGY, domain=Choice(values=strategies))
    tuned = (strategy_parameter(number, domain, strategies) for number, domain in {**ADAM, **numbers}.items())
    return SearchSpace(name=name, parameters=(strategy, *tuned), first_trials=first_trials)


# For 10 to 20 trials: the strategy that is least sensitive to lr, the one that is best at its own lr, the cheapest one
# that is not blind, and one number for P. meta_every is fixed: a basis that is nearly always fresh costs little on
# small layers. weight_decay is off.
QUICK: Final = _warpadam(
    "quick",
    (_ROTATION, _WHITENING, _DIAGONAL),
    {"weight_decay": Choice(values=(0.0,)), "p_lr": _P_LR, "meta_every": Choice(values=(2,))},
    (
        _point(0.01, 0.9, 0.95, strategy=_ROTATION, p_lr=0.03, meta_every=2),
        _point(0.03, 0.9, 0.95, strategy=_WHITENING, p_lr=0.003, meta_every=2),
        _point(0.01, 0.9, 0.95, strategy=_DIAGONAL, p_lr=0.1, meta_every=2),
    ),
)

# The strategies that are best at their own lr on single runs, and what matters most about them: lr and strategy.
# Six of the first trials are from a set of eight that was best on the tables of `benchmarks/search`: they span lr for
# the two learners that need no meta-gradient. Whitening steps are smaller than Adam's, so its best lr is about three
# times as high. On small tables much weight decay is mostly better, and a diagonal P with a small lr was the best of
# all on a third of them. A basis that is five steps old costs little and is nearly as good. The fifth and the last are
# for losses that do not overfit: on five of eight design tasks of `benchmarks/optimizers`, one of them was within 1.2
# times the best of 43 configs, on `char_transformer` of 28.
DEFAULT: Final = _warpadam(
    "default",
    (_WHITENING, _ROTATION, _DIAGONAL, _KRONECKER),
    {"p_lr": Choice(values=(0.0, 0.03)), "meta_every": Choice(values=(2, 5))},
    tuple(
        _point(lr, beta1, strategy=strategy, p_lr=p_lr, meta_every=every, weight_decay=decay)
        for strategy, lr, decay, p_lr, every, beta1 in (
            (_ROTATION, 0.01, 0.1, 0.0, 5, 0.9),
            (_WHITENING, 0.1, 0.1, 0.0, 5, 0.9),
            (_DIAGONAL, 0.001, 0.01, 0.03, 5, 0.9),
            (_ROTATION, 0.1, 0.1, 0.0, 5, 0.9),
            (_WHITENING, 0.03, 0.0, 0.0, 2, 0.9),
            (_KRONECKER, 0.003, 0.0, 0.03, 5, 0.9),
            (_ROTATION, 0.003, 0.1, 0.0, 5, 0.9),
            (_WHITENING, 0.03, 0.0, 0.0, 2, 0.95),
        )
    ),
)

# For long searches: every strategy worth its cost on a single run, and every number of P. A P before the moments that
# is not mapped back after them must be symmetric positive, as whitening's is; the others are in `paper`. No `full`: its
# cost grows with the square of the block.
WIDE: Final = _warpadam(
    "wide",
    (_ROTATION, _WHITENING, _KRONECKER, _DIAGONAL, _LOW_RANK),
    {"p_lr": _P_LR_OR_OFF, "meta_every": _META_EVERY, "p_decay": _P_DECAY, "cov_beta": _COV_BETA, "rank": _RANK},
    tuple(
        {**values, "p_decay": 0.0} | ({"cov_beta": 0.95} if values[STRATEGY] in (_ROTATION, _WHITENING) else {})
        for values in DEFAULT.first_trials
    ),
)

# What the paper describes: P g into the moments, P learned by the meta-gradient, every structure. `diagonal` is the
# negative control: Adam is blind to a constant positive diagonal before it. Whitening has the same placement, but no
# meta-gradient: an override of `learner` brings it in.
PAPER: Final = _warpadam(
    "paper",
    _PAPER,
    {"p_lr": _P_LR, "meta_every": _META_EVERY, "p_decay": _P_DECAY, "rank": _RANK, "block_size": _BLOCK_SIZE},
    (
        _point(0.01, 0.9, 0.95, strategy=_PAPER[1], p_lr=0.003, meta_every=10, p_decay=0.0, rank=4),
        _point(0.01, 0.9, 0.95, strategy=_PAPER[2], p_lr=0.001, meta_every=10, p_decay=0.01),
        _point(0.03, 0.9, 0.95, strategy=_PAPER[0], p_lr=0.01, meta_every=10, p_decay=0.0),
    ),
)

# The baseline: exactly the freedom on Adam's own numbers that WarpAdam has, and as many first trials. A ladder of lr
# has much weight decay, which is mostly better on small tables; then come PyTorch's defaults, and a large lr with a
# short memory.
ADAMW: Final = SearchSpace(
    name="adamw",
    parameters=tuple(Parameter(name=name, domain=domain) for name, domain in ADAM.items()),
    first_trials=(
        *(_point(lr, beta2=0.999, weight_decay=0.1) for lr in LADDER),
        _point(1e-3, beta2=0.999, weight_decay=0.01),
        _point(0.06, beta2=0.95, weight_decay=0.1),
    ),
)


def _baseline(name: str, domains: Mapping[str, Domain], *first_trials: dict[str, Scalar]) -> SearchSpace:
    parameters = tuple(Parameter(name=parameter, domain=domain) for parameter, domain in domains.items())
    return SearchSpace(name=name, parameters=parameters, first_trials=first_trials)


def _muon_point(lr: float, momentum: float, adamw_lr: float, output: str, decay: float = 0.0) -> dict[str, Scalar]:
    tuned = {"lr": lr, "momentum": momentum, "weight_decay": decay}
    return {**tuned, "adamw_lr": adamw_lr, "output_layer": output}


# Muon for hidden weights, AdamW for the rest. Its step is matched to AdamW's in size, so its lr is AdamW's or a little
# more; the rest has an lr of its own in AdamW's range. Momentum as beta1. Its authors leave the output layer to AdamW;
# in a small network it may be better off with Muon.
MUON: Final = _baseline(
    "muon",
    {
        "lr": Float(low=1e-3, high=0.3, log=True),
        "momentum": ADAM["beta1"],
        "weight_decay": ADAM["weight_decay"],
        "adamw_lr": ADAM["lr"],
        "output_layer": Choice(values=("adamw", "muon")),
    },
    _muon_point(0.02, 0.95, 0.003, "adamw"),
    _muon_point(0.05, 0.95, 0.01, "muon"),
    _muon_point(0.006, 0.95, 0.003, "muon"),
    _muon_point(0.1, 0.9, 0.03, "adamw"),
    _muon_point(0.002, 0.9, 0.001, "adamw"),
    _muon_point(0.03, 0.9, 0.01, "adamw", 0.1),
    _muon_point(0.01, 0.95, 0.001, "muon", 0.1),
    _muon_point(0.05, 0.95, 0.03, "muon", 0.1),
)


def _soap_point(lr: float, beta1: float, every: int, decay: float = 0.0) -> dict[str, Scalar]:
    tuned: dict[str, Scalar] = {"lr": lr, "beta1": beta1, "beta2": 0.95, "weight_decay": decay}
    return {**tuned, "shampoo_beta": 0.95, "precondition_frequency": every}


# Adam in the eigenbasis of Shampoo's covariances. Those and the second moment follow the last 10, 20 or 100 gradients,
# as WarpAdam's covariances do. The fresher the basis, the lower the loss: 10, its default, was behind wherever it was
# tried here.
SOAP: Final = _baseline(
    "soap",
    {
        **ADAM,
        "beta2": Choice(values=(0.9, 0.95, 0.99)),
        "shampoo_beta": Choice(values=(0.9, 0.95, 0.99)),
        "precondition_frequency": Choice(values=(1, 2, 5)),
    },
    _soap_point(0.01, 0.9, 2),
    _soap_point(0.003, 0.9, 2),
    _soap_point(0.03, 0.9, 2),
    _soap_point(0.001, 0.9, 2),
    _soap_point(0.1, 0.9, 2),
    _soap_point(0.01, 0.9, 1, 0.1),
    _soap_point(0.003, 0.9, 2, 0.1),
    _soap_point(0.1, 0.9, 2, 0.1),
)


def _sgd_point(lr: float, momentum: float, decay: float = 0.0) -> dict[str, Scalar]:
    return {"lr": lr, "momentum": momentum, "weight_decay": decay}


# SGD with Nesterov's momentum. Its lr is in units of the loss and differs more between tasks than Adam's: three
# decades, from where a run of 1,000 steps hardly moves to where small networks diverge. Momentum: off, as Adam's
# default, and a memory of 20 and 100 steps. Its weight decay goes through the gradient, where 0.01 is already much.
SGD: Final = _baseline(
    "sgd",
    {
        "lr": Float(low=1e-3, high=1.0, log=True),
        "momentum": Choice(values=(0.0, 0.9, 0.95, 0.99)),
        "weight_decay": Choice(values=(0.0, 1e-4, 1e-3, 1e-2)),
    },
    _sgd_point(0.1, 0.9),
    _sgd_point(0.03, 0.9),
    _sgd_point(0.3, 0.9),
    _sgd_point(0.01, 0.9),
    _sgd_point(1.0, 0.0),
    _sgd_point(0.003, 0.9, 1e-3),
    _sgd_point(0.03, 0.9, 1e-2),
    _sgd_point(0.1, 0.9, 1e-2),
)

PRESETS: Final[Mapping[str, SearchSpace]] = {
    space.name: space for space in (DEFAULT, QUICK, WIDE, PAPER, ADAMW, MUON, SOAP, SGD)
}
"""Every preset by its name."""


def get_preset(name: str) -> SearchSpace:
    """Return the preset called ``name``.

    Raises:
        SearchSpaceError: There is no such preset; the message lists them.

    >>> get_preset("adamw").names
    ('lr', 'beta1', 'beta2', 'weight_decay')
    """
    if name not in PRESETS:
        raise SearchSpaceError("preset", name, *must_be_one_of(name, PRESETS))
    return PRESETS[name]
