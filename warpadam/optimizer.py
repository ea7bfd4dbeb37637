"""``WarpAdam``, the ``torch.optim.Optimizer``.

It gathers parameters and gradients, checks them and keeps the state. The mathematics is in ``learners/``: a rule turns
gradients into directions, and it alone knows what the entries of the state mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, Final, final, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from warpadam.config import Strategy, WarpAdamConfig
from warpadam.errors import InvalidConfigError, UnsupportedParameterError
from warpadam.learners import StepSettings, UpdateRule, choose_rule
from warpadam.learners.normalised import SKIPPED
from warpadam.precision import without_autocast
from warpadam.stacks import SteppedParameter, StepPlan
from warpadam.structures import Distortion

_DEFAULT: Final = WarpAdamConfig()
_CONFIG_FIELDS: Final = tuple(field.name for field in fields(WarpAdamConfig))

_LIMITS: Final = ("rank", "block_size", "max_dim")


@final
class WarpAdam(Optimizer):
    """Adam that sees P g instead of the gradient g, where the matrix P is learned during training.

    Every parameter has its own P. ``structure`` says how P is shaped, ``placement`` where it acts and ``learner`` how
    it learns. The arguments and their defaults are those of :class:`~warpadam.WarpAdamConfig`. A parameter group may
    override any of them. The state is fp32, or fp64 for fp64 parameters.

    Args:
        params: Parameters, parameter groups, or ``model.named_parameters()``. Errors and reports use the names.
        lr: Step size. It is read from the group at each step, so schedulers work. The default fits ``whitening``, whose
            updates have a root mean square of 0.2. Start the other learners at 0.003 to 0.01.
        betas: Decay rates of the moments.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled weight decay.
        structure: ``diagonal``, ``low_rank``, ``kronecker`` or ``full``. The weight of a convolution counts as the
            matrix (out, in * kh * kw). Vectors and scalars are ``diagonal`` unless the structure is ``full``. If you
            leave ``structure``, ``placement`` or ``learner`` open, the best strategy with what you give is taken;
            if you give none of them, it is ``kronecker``, ``pre`` and ``whitening``.
        placement: ``pre``, ``post`` or ``sandwich``. ``diagonal`` with ``pre`` is a negative control: Adam cancels it.
        learner: ``hypergradient``, ``rotation`` (``sandwich`` only), ``whitening`` (``pre`` only) or ``frozen``.
            ``rotation`` and ``whitening`` need ``kronecker`` or ``full``. Vectors and scalars are then stepped by Adam,
            with a learned scale under ``rotation`` and without one under ``whitening``.
        rank: Rank of ``low_rank``.
        block_size: Most elements of one block of ``full``.
        max_dim: Longest axis that ``kronecker`` mixes.
        p_lr: Step size of the meta-gradient, which is normalised. 0 switches it off.
        meta_every: Steps between two updates of P. Under ``rotation`` and ``whitening`` a learned scale is updated at
            every step.
        p_decay: Pull of P, or of its learned scale, towards the identity at each update.
        cov_beta: Decay rate of the gradient covariances of ``rotation`` and ``whitening``.
        maximize: Maximize the objective instead of minimizing it.

    Raises:
        InvalidConfigError: A value is out of range, or settings do not go together; in any group.
        UnsupportedParameterError: A parameter is complex or sparse.

    Source: Pan, Chen & Ye 2024 (arXiv 2409.04244).

    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = WarpAdam(model.named_parameters(), lr=0.01, learner="rotation")
    >>> model(torch.ones(4, 3)).square().mean().backward()
    >>> optimizer.step()
    >>> optimizer.defaults["structure"], optimizer.defaults["placement"]
    ('kronecker', 'sandwich')
    """

    def __init__(  # noqa: PLR0913 - as flat as every constructor of torch.optim
        self,
        params: ParamsT,
        lr: float = _DEFAULT.lr,
        betas: tuple[float, float] = _DEFAULT.betas,
        eps: float = _DEFAULT.eps,
        weight_decay: float = _DEFAULT.weight_decay,
        *,
        structure: str | None = None,
        placement: str | None = None,
        learner: str | None = None,
        rank: int = _DEFAULT.rank,
        block_size: int = _DEFAULT.block_size,
        max_dim: int = _DEFAULT.max_dim,
        p_lr: float = _DEFAULT.p_lr,
        meta_every: int = _DEFAULT.meta_every,
        p_decay: float = _DEFAULT.p_decay,
        cov_beta: float = _DEFAULT.cov_beta,
        maximize: bool = False,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in _CONFIG_FIELDS}
        config = WarpAdamConfig(**given)
        self._plans: dict[int, StepPlan] = {}
        super().__init__(params, {**asdict(config), "maximize": maximize})

    @classmethod
    def from_config(cls, params: ParamsT, config: WarpAdamConfig, *, maximize: bool = False) -> WarpAdam:
        """Make an optimizer with the settings of ``config``.

        >>> WarpAdam.from_config([torch.nn.Parameter(torch.ones(2))], WarpAdamConfig(lr=0.5)).defaults["lr"]
        0.5
        """
        return cls(params, **asdict(config), maximize=maximize)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own settings. Missing settings take the optimizer's defaults.

        If the defaults of structure, placement and learner do not go with those of the group, the group's are filled in
        as the constructor does. For example ``{"structure": "diagonal"}`` becomes a ``sandwich`` that is learned by
        ``hypergradient`` if the optimizer's learner is ``whitening``.

        Raises:
            InvalidConfigError: As for the constructor.
            UnsupportedParameterError: As for the constructor.
        """
        own = {name: value for name, value in param_group.items() if name in _CONFIG_FIELDS}
        config = _config_of(self.defaults).changed(**own)
        param_group.update({name: getattr(config, name) for name in Strategy._fields})
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            for index, param in enumerate(group["params"]):
                _check_tensor(param, "parameter", _describe(group, len(self.param_groups) - 1, index))
        except UnsupportedParameterError:
            self.param_groups.pop()
            raise

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step every parameter that has a gradient.

        Args:
            closure: Computes the loss and its gradients again. Called once, with gradients enabled.

        Returns:
            The loss that the closure returned.

        Raises:
            UnsupportedParameterError: A gradient is sparse or complex. No parameter has moved then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_grads()
        with without_autocast():
            self._step_groups()
        return loss

    @property
    def skipped_meta_updates(self) -> int:
        """How often an update of P was skipped because a meta-gradient or a covariance was not finite.

        Summed over all parameters. Waits for the device.
        """
        return int(sum(float(state[SKIPPED]) for state in self.state.values() if SKIPPED in state))

    def get_distortion(self, param: Tensor) -> dict[str, Tensor]:
        """Return a copy of the learned P of a parameter: its factors, and its scale and covariances if it has any.

        Raises:
            KeyError: The optimizer does not have the parameter.
        """
        rule, distortion, state = self._prepare(param, self._group_of(param))
        carried = rule.init_carried(distortion, torch.float32, torch.device("meta"))
        return {name: state[name].clone() for name in carried if name in state}

    def set_distortion(self, param: Tensor, distortion: Mapping[str, Tensor]) -> None:
        """Give a parameter a P, as :meth:`get_distortion` returns it. Tensors that are not given stay.

        Raises:
            InvalidConfigError: A tensor has another shape, or the parameter's strategy has no such tensor.
            KeyError: The optimizer does not have the parameter.
        """
        rule, structure, state = self._prepare(param, self._group_of(param))
        carried = rule.init_carried(structure, torch.float32, torch.device("meta"))
        for name, value in distortion.items():
            if name not in carried:
                raise InvalidConfigError("distortion", name, f"must only have {', '.join(carried)}")
            if value.shape != carried[name].shape:
                raise InvalidConfigError(name, tuple(value.shape), f"must have the shape {tuple(carried[name].shape)}")
        for name, value in distortion.items():
            state[name] = value.detach().to(dtype=_state_dtype(param), device=param.device, copy=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state exactly. Unlike torch's own method it does not cast the state or share its tensors.

        Raises:
            InvalidConfigError: The saved settings are not legal.
            ValueError: The saved groups do not match the optimizer's.
        """
        loaded: list[dict[str, Any]] = []

        def check(_: Optimizer, final_state: dict[str, Any]) -> None:
            for group in final_state["param_groups"]:
                _config_of({**self.defaults, **group})
            loaded.append(final_state)

        before = self.register_load_state_dict_pre_hook(check)
        after = self.register_load_state_dict_post_hook(lambda _: self._uncast(loaded[-1]), prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plans = {}
        for group in self.param_groups:
            group.setdefault("maximize", False)

    def _uncast(self, state_dict: Mapping[str, Any]) -> None:
        """Replace the values that torch cast to the parameter's dtype by the saved ones."""
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for param, key in zip(group["params"], saved["params"], strict=True):
                for name, value in state_dict["state"].get(key, {}).items():
                    device = value.device if name == "step" else param.device
                    self.state[param][name] = value.to(device=device, copy=True)

    def _step_groups(self) -> None:
        for index, group in enumerate(self.param_groups):
            params = [param for param in group["params"] if param.grad is not None]
            key = _plan_key(group)
            plan = self._plans.get(index)
            if plan is None or not plan.serves(params, self.state, key):
                self._plans.pop(index, None)
                plan = StepPlan([SteppedParameter(param, *self._prepare(param, group)) for param in params], key)
                self._plans[index] = plan
            plan.step(group, _settings(group))

    def _prepare(self, param: Tensor, group: Mapping[str, Any]) -> tuple[UpdateRule, Distortion, dict[str, Tensor]]:
        strategy, limits = _plan_key(group)
        rule, distortion = choose_rule(strategy, tuple(param.shape), **dict(zip(_LIMITS, limits, strict=True)))
        state = self.state[param]
        if not state:
            state.update(rule.init_state(distortion, _state_dtype(param), param.device))
        return rule, distortion, state

    def _group_of(self, param: Tensor) -> dict[str, Any]:
        for group in self.param_groups:
            if any(param is own for own in group["params"]):
                return group
        raise KeyError(f"the optimizer does not have this parameter of shape {tuple(param.shape)}")

    def _check_grads(self) -> None:
        for group_index, group in enumerate(self.param_groups):
            for index, param in enumerate(group["params"]):
                grad = param.grad
                if grad is not None and (grad.layout != torch.strided or grad.is_complex()):
                    _check_tensor(grad, "gradient of parameter", _describe(group, group_index, index))


def _state_dtype(param: Tensor) -> torch.dtype:
    return torch.float64 if param.dtype == torch.float64 else torch.float32


def _settings(group: Mapping[str, Any]) -> StepSettings:
    beta1, beta2 = group["betas"]
    return StepSettings(
        beta1, beta2, group["eps"], group["p_lr"], group["meta_every"], group["p_decay"], group["cov_beta"]
    )


def _plan_key(group: Mapping[str, Any]) -> tuple[tuple[str, str, str], tuple[int, ...]]:
    """Return the settings on which rules and structures depend: the strategy, and the numbers in ``_LIMITS``."""
    return (group["structure"], group["placement"], group["learner"]), tuple(group[name] for name in _LIMITS)


def _config_of(group: Mapping[str, Any]) -> WarpAdamConfig:
    """Return the settings of a group as a config, which checks them."""
    return WarpAdamConfig(**{name: group[name] for name in _CONFIG_FIELDS})


def _describe(group: Mapping[str, Any], group_index: int, index: int) -> str:
    if "param_names" in group:
        return repr(group["param_names"][index])
    return f"{index} of group {group_index}"


def _check_tensor(tensor: Tensor, role: str, where: str) -> None:
    kind = "complex" if tensor.is_complex() else "sparse" if tensor.layout != torch.strided else None
    if kind is not None:
        raise UnsupportedParameterError(
            f"the {role} {where} of shape {tuple(tensor.shape)} is {kind}: WarpAdam needs real, dense tensors"
        )
