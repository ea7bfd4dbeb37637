"""``WarpAdam``, the ``torch.optim.Optimizer``.

It gathers parameters and gradients, checks them and keeps the state. The mathematics is in ``learners/``: a rule turns
gradients into directions, and it alone knows what the entries of the state mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import asdict
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, final, overload

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, ParamsT
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from warpadam.config import DEFAULT_LR, Learner, Strategy, WarpAdamConfig
from warpadam.distributed import Owners, can_be_gathered, is_sharded
from warpadam.errors import CudaGraphError, InvalidConfigError, UnsupportedParameterError, WarpMismatchError
from warpadam.groups import param_groups
from warpadam.learners import FrozenRule, StepSettings, UpdateRule, can_continue, choose_rule
from warpadam.learners.base import SKIPPED
from warpadam.precision import without_autocast
from warpadam.settings import (
    CONFIG_FIELDS,
    LAYOUT_FIELDS,
    check_names,
    checked_start,
    config_of,
    momentum_dtype_of,
    plain_group,
    rate_of,
)
from warpadam.splits import PartOf, Split, SplitTensor, check_used, parts_of, splits_of
from warpadam.stacks import GroupNumbers, SteppedParameter, StepPlan, compacted
from warpadam.state import complete_state, known_entries, misfits, recomputed, required_entries, restored, state_dtype
from warpadam.structures import Distortion

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_DEFAULT: Final = WarpAdamConfig()

_LAYOUT: Final = itemgetter(*LAYOUT_FIELDS)

_VALUES: Final = itemgetter(*(name for name in CONFIG_FIELDS if name != "lr"), "split")


class _Checked(NamedTuple):
    """The settings of a group at its last check.

    Attributes:
        values: All but lr, as they are in the group, and its split. A list is left out: it can change in place.
        config: The same as a config.
        settings: The numbers that a rule needs.
        layout: Those in ``LAYOUT_FIELDS``, and whether ``p_lr`` is more than 0. They decide what a state looks like.
    """

    values: tuple[Any, ...]
    config: WarpAdamConfig
    settings: StepSettings
    layout: tuple[Any, ...]


class _Made(NamedTuple):
    """A parameter as it was prepared last, and the settings that decided what its state looks like.

    A parameter that is split has several members, one for each part.
    """

    members: tuple[SteppedParameter, ...]
    layout: tuple[Any, ...]


@final
class WarpAdam(Optimizer):
    """Adam that sees P g instead of the gradient g, where the matrix P is learned during training.

    Every parameter has its own P. ``structure`` says how P is shaped, ``placement`` where it acts and ``learner`` how
    it learns. The arguments and their defaults are those of :class:`~warpadam.WarpAdamConfig`. A parameter group may
    override any of them. The state is fp32, or fp64 for fp64 parameters, unless you set ``momentum_dtype``.

    Args:
        params: A model, ``model.named_parameters()``, parameters, or parameter groups. Errors and reports use the
            names. A model is divided as :func:`~warpadam.param_groups` does, so plain Adam steps its embeddings.
        lr: Step size, a number or a tensor of one element. It is read from the group at each step, so schedulers work.
            By default 0.005 for ``whitening``, whose updates have a root mean square of 0.2, and 0.003 for the others.
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
        max_dim: Longest axis that ``kronecker`` mixes as a whole.
        p_lr: Step size of the meta-gradient, which is normalised. 0 switches it off.
        meta_every: Steps between two updates of P. Under ``rotation`` and ``whitening`` a learned scale is updated at
            every step.
        p_decay: Pull of P, or of its learned scale, towards the identity at each update.
        cov_beta: Decay rate of the gradient covariances of ``rotation`` and ``whitening``.
        split: Parameters that hold several matrices, such as fused projections or experts: by name a number of equal
            parts, a list of sizes along axis 0, or ``"each"``. Each part has its own P. See :mod:`warpadam.splits`.
        maximize: Maximize the objective instead of minimizing it.
        momentum_dtype: ``torch.bfloat16`` stores the first moment, and the gradient or update that is kept for the next
            meta-gradient, in bf16: 4 bytes less for each element under the default. They are computed in fp32.
        process_group: Ranks that share the work of a step, for example ``torch.distributed.group.WORLD`` under
            ``DistributedDataParallel``. Each rank keeps the P of its own parameters only. Sharded parameters (FSDP2)
            are always shared by the ranks of their mesh. See :mod:`warpadam.distributed`.

    Raises:
        InvalidConfigError: A value is out of range, or settings do not go together; in any group.
        UnsupportedParameterError: A parameter is complex, sparse, or sharded in a way that cannot be gathered.

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
        params: ParamsT | nn.Module,
        lr: float | Tensor | None = None,
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
        split: Any = None,
        maximize: bool = False,
        momentum_dtype: torch.dtype | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in CONFIG_FIELDS}
        config = WarpAdamConfig(**{**given, "lr": checked_start(lr)})
        if isinstance(params, nn.Module):
            if isinstance(lr, Tensor):
                hint = "Or pass param_groups(model), and put the tensor into the groups that follow it."
                raise InvalidConfigError("lr", lr, "must be a number for a model: embeddings have another lr", hint)
            params, split = param_groups(params, config, split=split), None
        self._lr_follows_learner = lr is None
        self._forget_plans()
        self._owners = Owners(process_group)
        rate = lr if isinstance(lr, Tensor) else config.lr
        self._splits: dict[Tensor, Split] = {}
        other = {"maximize": maximize, "momentum_dtype": momentum_dtype, "split": split}
        super().__init__(params, {**asdict(config), "lr": rate, **other})
        check_used(split, (name for group in self.param_groups for name in group.get("param_names", ())))

    @classmethod
    def from_config(
        cls,
        params: ParamsT | nn.Module,
        config: WarpAdamConfig,
        *,
        split: Any = None,
        maximize: bool = False,
        momentum_dtype: torch.dtype | None = None,
        process_group: ProcessGroup | None = None,
    ) -> WarpAdam:
        """Make an optimizer with the settings of ``config``.

        >>> WarpAdam.from_config([torch.nn.Parameter(torch.ones(2))], WarpAdamConfig(lr=0.5)).defaults["lr"]
        0.5
        """
        return cls(
            params,
            **asdict(config),
            split=split,
            maximize=maximize,
            momentum_dtype=momentum_dtype,
            process_group=process_group,
        )

    def to(self, device: torch.device | str | int) -> Self:
        """Move the state to the device of the parameters, after ``model.to(device)``. Returns the optimizer.

        Args:
            device: Where the parameters already are.

        Raises:
            ValueError: A parameter is on another device. Nothing has moved then.

        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = WarpAdam(model.named_parameters())
        >>> optimizer = optimizer.to(model.to("cpu").weight.device)
        """
        wanted = torch.empty(0, device=device).device
        for index, group in enumerate(self.param_groups):
            for place, param in enumerate(group["params"]):
                if param.device != wanted:
                    raise ValueError(
                        f"parameter {_describe(group, index, place)} is on {param.device}, not on {wanted}: "
                        "move the model first, then the optimizer"
                    )
        self.load_state_dict(self.state_dict())
        return self

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own settings. Missing settings take the optimizer's defaults.

        If the defaults of structure, placement and learner do not go with those of the group, the group's are filled in
        as the constructor does. For example ``{"structure": "diagonal"}`` becomes a ``sandwich`` that is learned by
        ``hypergradient`` if the optimizer's learner is ``whitening``. If you gave the optimizer no lr, that of the
        group is the default of the group's learner.

        Parameters without names, added to those with names, are called by their place, such as ``0 of group 1``. To
        carry their P to another optimizer, name them: ``{"params": module.named_parameters()}``.

        Raises:
            InvalidConfigError: As for the constructor.
            UnsupportedParameterError: As for the constructor.
        """
        check_names(param_group)
        momentum_dtype_of({**self.defaults, **param_group})
        own = {name: checked_start(value) for name, value in param_group.items() if name in CONFIG_FIELDS}
        defaults = {name: checked_start(self.defaults[name]) for name in CONFIG_FIELDS}
        config = WarpAdamConfig(**defaults).changed(**own)
        if self._lr_follows_learner:
            param_group.setdefault("lr", DEFAULT_LR[config.learner])
        numbers = {name: getattr(config, name) for name in own if name != "lr"}
        param_group.update(numbers | {name: getattr(config, name) for name in Strategy._fields})
        has_own_split = "split" in param_group
        params, index = param_group["params"], len(self.param_groups)
        if any("param_names" in group for group in self.param_groups) and not isinstance(params, set):
            params = [params] if isinstance(params, Tensor) else list(params)
            if "param_names" not in param_group and not any(isinstance(param, tuple) for param in params):
                params = [(f"{place} of group {index}", param) for place, param in enumerate(params)]
            param_group["params"] = params
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            for index, param in enumerate(group["params"]):
                _check_tensor(param, "parameter", _describe(group, len(self.param_groups) - 1, index))
            self._splits |= splits_of(group, all_used=has_own_split)
        except (UnsupportedParameterError, InvalidConfigError):
            self.param_groups.pop()
            raise
        self._owners.add(group["params"])

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch._disable_dynamo  # type: ignore[attr-defined]  # torch.compiler.disable would import the compiler, which takes seconds
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step every parameter that has a gradient.

        A step that is part of a function under ``torch.compile`` runs as it is, outside of the compiled graphs.

        Args:
            closure: Computes the loss and its gradients again. Called once, with gradients enabled.

        Returns:
            The loss that the closure returned.

        Raises:
            CudaGraphError: A CUDA graph is being captured. Its replays would repeat this one step, with the same bias
                correction and without updates of P. No parameter has moved then.
            InvalidConfigError: A setting of a group was changed to a value that is not legal, or that does not go with
                the states there are. No parameter has moved then.
            UnsupportedParameterError: A gradient is sparse or complex. No parameter has moved then.
            WarpMismatchError: Someone replaced the state of a parameter, and it does not fit.
        """
        _refuse_capture()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_grads()
        params = [param for group in self.param_groups for param in group["params"] if param.grad is not None]
        with without_autocast():
            self._owners.gather(params)
            self._step_groups()
            self._owners.hand_out(params)
        return loss

    def summary(self) -> str:
        """Say how the parameters are stepped: a line for those of a group that have the same strategy.

        >>> print(WarpAdam(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4))).summary())
        1 tensor with 16 elements: kronecker P (pre) learned by whitening every 5 steps, lr 0.005
        1 tensor with 4 elements: plain Adam, lr 0.005
        1 tensor with 36 elements: plain Adam, lr 0.01
        """
        lines = []
        for group in self.param_groups:
            config, sizes = config_of(group), defaultdict(list)
            for param in group["params"]:
                for part in parts_of(param, self._splits.get(param)):
                    rule, distortion = _rule_of(part.like, config)
                    is_plain = isinstance(rule, FrozenRule) and not distortion.mixes
                    sizes["plain Adam" if is_plain else _described_strategy(config)].append(part.like.numel())
            numbers = f"lr {float(rate_of(group)):g}"
            if config.weight_decay:
                numbers += f", weight decay {config.weight_decay:g}"
            lines += [
                f"{len(own)} tensor{'s' * (len(own) > 1)} with {sum(own):,} elements: {how}, {numbers}"
                for how, own in sizes.items()
            ]
        return "\n".join(lines)

    def owns(self, param: Tensor) -> bool:
        """Tell whether this rank steps a parameter and keeps its P. Without other ranks it owns them all."""
        return self._owners.owns(param)

    @property
    def skipped_updates(self) -> int:
        """How often a gradient or an update of P was left out, summed over all parameters.

        A gradient is left out if it is too large to square, an update of P if its meta-gradient or covariance was not
        finite. Counts what this rank owns. Waits for the device.
        """
        counts = [
            count
            for state in self.state.values()
            for name, count in state.items()
            if name.rpartition(".")[2] == SKIPPED  # each part of a split parameter has its own
        ]
        return int(sum(float(count) for count in counts))

    def get_distortion(self, param: Tensor) -> dict[str, Tensor]:
        """Return a copy of the learned P of a parameter: its factors, and its scale and covariances if it has any.

        If ranks share the parameter, call this on all of them. The names of a split parameter have the number of the
        part in front, such as ``0.row_factor``.

        Raises:
            KeyError: The optimizer does not have the parameter.
        """
        carried, own = self._find(param)
        state = self._owners.state_of(param, own)
        return {name: state[name].clone() for name in carried if name in state}

    def set_distortion(self, param: Tensor, distortion: Mapping[str, Tensor]) -> None:
        """Give a parameter a P, as :meth:`get_distortion` returns it. Tensors that are not given stay.

        If ranks share the parameter, call this on all of them.

        Raises:
            InvalidConfigError: A tensor has another shape, or the parameter's strategy has no such tensor.
            KeyError: The optimizer does not have the parameter.
        """
        carried, state = self._find(param)
        for name, value in distortion.items():
            if name not in carried:
                raise InvalidConfigError("distortion", name, f"must only have {', '.join(carried)}")
            if value.shape != carried[name].shape:
                raise InvalidConfigError(name, tuple(value.shape), f"must have the shape {tuple(carried[name].shape)}")
        for name, value in distortion.items() if self._owners.owns(param) else ():
            state[name] = value.detach().to(dtype=state_dtype(param), device=param.device, copy=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as ``torch.optim`` does, in a form that every way to save it takes.

        Each tensor is contiguous and shares no memory with another one. Where the optimizer holds the tensor in another
        form, it is a copy. Settings that are numbers of numpy, or names of an enum, become numbers and strings of
        Python, and ``momentum_dtype`` becomes ``"bfloat16"``.

        Where P was told to learn since the last step, it has what the next step will add for that. If ranks share
        parameters, call this on all of them: each gets the whole state.
        """
        saved = super().state_dict()
        for group, packed in zip(self.param_groups, saved["param_groups"], strict=True) if self._owners else ():
            for param, key in zip(group["params"], packed["params"], strict=True):
                if param in self.state:
                    saved["state"][key] = dict(self._owners.state_of(param, self.state[param]))
        for group, packed in zip(self.param_groups, saved["param_groups"], strict=True):
            with suppress(InvalidConfigError):  # the next step refuses such a setting; the state can be saved
                self._add_what_learning_needs(group, packed["params"], saved["state"])
            for key in saved["state"].keys() & packed["params"]:
                saved["state"][key] = {name: _to_save(value) for name, value in saved["state"][key].items()}
        return {**saved, "param_groups": [plain_group(group) for group in saved["param_groups"]]}

    def _add_what_learning_needs(self, group: Mapping[str, Any], keys: list[Any], states: dict[Any, Any]) -> None:
        """Add the entries that the next step will add to let P learn to the states that are saved under ``keys``."""
        config, dtype = config_of(group), momentum_dtype_of(group)
        for param, key in zip(group["params"], keys, strict=True) if config.p_lr > 0 else ():
            for part in parts_of(param, self._splits.get(param)) if key in states else ():
                entries, rule = part.entries(states[key]), _rule_of(part.like, config)
                if required_entries(*rule, False).keys() <= entries.keys():
                    complete_state(entries, part.like, *rule, True, dtype)
                    states[key] = {**states[key], **part.named(entries)}

    def compact_state_dict(self) -> dict[str, Any]:
        """Return :meth:`state_dict` without what :meth:`load_state_dict` can compute again: the factors of whitenings.

        For a square matrix that is a third of the state, or two fifths without a learned scale (``p_lr=0``). A run that
        continues from it differs a little from one that was not interrupted, unless P was updated in the last step: the
        new factors are those of all gradients so far.
        """
        saved = self.state_dict()
        for group, packed in zip(self.param_groups, saved["param_groups"], strict=True):
            config = config_of(group)
            for param, key in zip(group["params"], packed["params"], strict=True):
                for part in parts_of(param, self._splits.get(param)) if key in saved["state"] else ():
                    rule, distortion = _rule_of(part.like, config)
                    left_out = part.named(rule.recomputable(distortion)).keys()
                    kept = {name: value for name, value in saved["state"][key].items() if name not in left_out}
                    saved["state"][key] = kept
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state exactly. Unlike torch's own method it does not cast the state or share its tensors.

        The result of :meth:`compact_state_dict` may be loaded as well. Settings that the saved groups do not have take
        the optimizer's defaults. The optimizer keeps its own ``split`` and ``momentum_dtype``: a momentum that was
        saved in another dtype is converted.

        Raises:
            InvalidConfigError: The saved settings are not legal.
            WarpMismatchError: An entry of the state is missing or has another shape. It names them by parameter.
            ValueError: The saved groups do not match the optimizer's.
        """
        loaded: list[dict[str, Any]] = []

        def check(_: Optimizer, final_state: dict[str, Any]) -> dict[str, Any]:
            final_state = self._check_saved(final_state)
            own = [{name: group[name] for name in ("momentum_dtype", "split")} for group in self.param_groups]
            groups = [
                {**group, **kept} for group, kept in zip(final_state["param_groups"], own, strict=False)
            ] + final_state["param_groups"][len(own) :]
            loaded.append({**final_state, "param_groups": groups})
            return loaded[-1]

        before = self.register_load_state_dict_pre_hook(check)
        after = self.register_load_state_dict_post_hook(lambda _: self._uncast(loaded[-1]), prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def __getstate__(self) -> dict[str, Any]:
        if self._owners:
            raise UnsupportedParameterError(
                "an optimizer that shares parameters with other ranks can be neither copied nor pickled: this rank has "
                "the state of its own parameters only. Save optimizer.state_dict() instead"
            )
        own = {"_lr_follows_learner": self._lr_follows_learner, "_splits": self._splits}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._owners = getattr(self, "_owners", None) or Owners(None)
        self._lr_follows_learner = getattr(self, "_lr_follows_learner", False)
        self._forget_plans()
        for group in self.param_groups:
            for name in (*CONFIG_FIELDS, "maximize"):
                group.setdefault(name, self.defaults[name])
            group.setdefault("momentum_dtype", None)
            group.setdefault("split", None)
        if not hasattr(self, "_splits"):  # saved by an older version
            self._splits = {param: split for group in self.param_groups for param, split in splits_of(group).items()}

    def _forget_plans(self) -> None:
        self._plan: StepPlan | None = None
        self._made: dict[Tensor, _Made] = {}
        self._split_tensors: dict[Tensor, SplitTensor] = {}
        self._checked: dict[int, _Checked] = {}

    def _check_saved(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Refuse a saved state that does not fit, and return it with what had to be computed again."""
        wrong, states = [], dict(state_dict["state"])
        for index, (group, saved) in enumerate(zip(self.param_groups, state_dict["param_groups"], strict=False)):
            settings = {**self.defaults, **saved}
            rate_of(settings)
            config = config_of(settings)
            for place, (param, key) in enumerate(zip(group["params"], saved["params"], strict=False)):
                if key in state_dict["state"]:
                    for part in parts_of(param, self._splits.get(param)):
                        entries, rule = part.entries(states[key]), _rule_of(part.like, config)
                        missing = recomputed(entries, part.like, *rule)
                        states[key] = {**states[key], **part.named(missing)}
                        found = misfits(entries | missing, part.like, *rule, config.p_lr > 0)
                        where = _described_part(_describe(group, index, place), part)
                        wrong += [f"parameter {where} {line}" for line in found]
        if wrong:
            raise WarpMismatchError(tuple(wrong), "state")
        return {**state_dict, "state": states}

    def _uncast(self, state_dict: Mapping[str, Any]) -> None:
        """Replace the values that torch cast to the parameter's dtype by the saved ones."""
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            config = config_of(group)
            for param, key in zip(group["params"], saved["params"], strict=True):
                if key in state_dict["state"]:
                    own, cast = state_dict["state"][key], self.state[param]
                    self.state[param] = dict(cast) if self._owners.owns(param) else {}
                    for part in parts_of(param, self._splits.get(param)) if self._owners.owns(param) else ():
                        rule = _rule_of(part.like, config)
                        dtype = momentum_dtype_of(group)
                        values = restored(part.entries(own), part.entries(cast), part.like, *rule, dtype)
                        self.state[param].update(part.named(values))

    def _step_groups(self) -> None:
        checked = [self._check_settings(index, group) for index, group in enumerate(self.param_groups)]
        numbers = [
            _numbers_of(group, known, rate_of(group)) for group, known in zip(self.param_groups, checked, strict=True)
        ]
        stepped = [self._own_params_with_gradient(group) for group in self.param_groups]
        params = [param for own in stepped for param in own]
        if not params:
            return
        alike = _alike(numbers)
        key = (alike, [len(own) for own in stepped], [known.layout for known in checked])
        if self._plan is None or not self._plan.serves(params, self.state, key):
            members = [
                member
                for index, (own, known) in enumerate(zip(stepped, checked, strict=True))
                for param in own
                for member in self._prepare(param, index, known)
            ]
            self._plan = StepPlan(members, alike, key, self._plan)
            self._made = {param: made for param, made in self._made.items() if param in self.state}
        split = [self._split_tensors[param] for param in params if param in self._split_tensors]
        for tensor in split:
            tensor.attach()
        self._plan.step(numbers)
        for tensor in split:
            tensor.detach()

    def _own_params_with_gradient(self, group: Mapping[str, Any]) -> list[Tensor]:
        """Return what this rank steps, and note for the other parameters that they have been stepped."""
        with_gradient = [param for param in group["params"] if param.grad is not None]
        if not self._owners:
            return with_gradient
        for param in with_gradient:
            self.state[param]
        return [param for param in with_gradient if self._owners.owns(param)]

    def _check_settings(self, index: int, group: Mapping[str, Any]) -> _Checked:
        """Return the settings of a group, checked when they have changed since the last step."""
        values = _VALUES(group)
        known = self._checked.get(index)
        if known is None or not all(map(is_, known.values, values)):
            config = config_of(group)
            if known is None or known.values[-1] is not values[-1]:
                self._check_split(group)
            values = tuple(None if isinstance(value, list) else value for value in values)
            settings = StepSettings(
                *config.betas, config.eps, config.p_lr, config.meta_every, config.p_decay, config.cov_beta
            )
            known = self._checked[index] = _Checked(values, config, settings, (*_LAYOUT(group), config.p_lr > 0))
        return known

    def _check_split(self, group: Mapping[str, Any]) -> None:
        made = {param: self._splits[param] for param in group["params"] if param in self._splits}
        if splits_of(group) != made:
            message = "cannot change: the optimizer was made with another"
            raise InvalidConfigError("split", group["split"], message, "Make a new optimizer.")

    def _prepare(self, param: Tensor, group_index: int, known: _Checked) -> tuple[SteppedParameter, ...]:
        """Return the parts of a parameter with their rules, and with every entry in its state that a step needs."""
        state = self.state[param]
        made = self._made.get(param)
        if made and made.layout == known.layout and all(own.serves(group_index, state) for own in made.members):
            return made.members
        learns, dtype = known.config.p_lr > 0, momentum_dtype_of(self.param_groups[group_index])
        split = self._splits.get(param)
        parts = [(part, *_rule_of(part.like, known.config)) for part in parts_of(param, split)]
        wrong: list[str] = []
        for index, (part, rule, distortion) in enumerate(parts):
            entries = part.entries(state)
            if made and "exp_avg" in entries:
                self._check_switch(made.members[index], group_index, (rule, distortion), (made.layout, known.layout))
            complete_state(entries, part.like, rule, distortion, learns, dtype)
            if found := list(misfits(entries, part.like, rule, distortion, learns)):
                where = _described_part(self._name(param, group_index), part)  # a search: only for an error
                wrong += [f"parameter {where} {line}" for line in found]
            state.update(part.named(entries))
        if wrong:
            raise WarpMismatchError(tuple(wrong), "state")
        wholes = [self._owners.whole(param)]
        if split is not None:
            wholes = self._split_tensors.setdefault(param, SplitTensor(split, wholes[0])).parts
        members = []
        for (part, rule, distortion), whole in zip(parts, wholes, strict=True):
            known_names = (name for name in known_entries(rule, distortion) if part.prefix + name in state)
            shapes = {name: state[part.prefix + name].shape for name in known_names}
            shape = tuple(part.like.shape)
            members.append(
                SteppedParameter(
                    param, part.prefix, shape, whole, group_index, rule, distortion, state, shapes, len(state)
                )
            )
        self._made[param] = _Made(tuple(members), known.layout)
        return self._made[param].members

    def _check_switch(
        self,
        old: SteppedParameter,
        group_index: int,
        new: tuple[UpdateRule, Distortion],
        layouts: tuple[tuple[Any, ...], tuple[Any, ...]],
    ) -> None:
        """Refuse settings that give the entries of a state another meaning than those under which it was made."""
        param, rule, distortion = old.param, old.rule, old.distortion
        before, after = layouts
        changed = [
            (name, value) for name, value, own in zip(LAYOUT_FIELDS, after, before, strict=False) if value != own
        ]
        if changed and not can_continue((rule, distortion), new):
            raise InvalidConfigError(
                *changed[0],
                f"cannot change now: the state of parameter {self._name(param, group_index)} was made under "
                + "/".join(before[:3]),
                "Make a new optimizer, or delete the parameter's entry in optimizer.state to start it again.",
            )

    def _name(self, param: Tensor, group_index: int) -> str:
        group = self.param_groups[group_index]
        return _describe(group, group_index, next(i for i, own in enumerate(group["params"]) if own is param))

    def _find(self, param: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the tensors of a parameter's P, without values, and what this rank has of its state."""
        for index, group in enumerate(self.param_groups):
            if any(param is own for own in group["params"]):
                known = self._check_settings(index, group)
                if self._owners.owns(param):
                    self._prepare(param, index, known)
                carried: dict[str, Tensor] = {}
                for part in parts_of(param, self._splits.get(param)):
                    rule, distortion = _rule_of(part.like, known.config)
                    carried |= part.named(rule.init_carried(distortion, torch.float32, torch.device("meta")))
                return carried, self.state[param]
        raise KeyError(f"the optimizer does not have this parameter of shape {tuple(param.shape)}")

    def _check_grads(self) -> None:
        for group_index, group in enumerate(self.param_groups):
            for index, param in enumerate(group["params"]):
                grad = param.grad
                if is_sharded(param) and grad is not None and is_sharded(grad):
                    continue  # any placement can be gathered
                if grad is not None and (type(grad) is not Tensor or grad.layout != torch.strided or grad.is_complex()):
                    _check_tensor(grad, "gradient of parameter", _describe(group, group_index, index))


def _to_save(value: Any) -> Any:
    """Return an entry of a state; a tensor that is a view of a stack as a copy.

    ``torch.distributed`` sends the memory of a tensor as it lies, so only a contiguous one arrives as it was.
    """
    return compacted(value) if type(value) is Tensor and value.layout == torch.strided else value


def _refuse_capture() -> None:
    in_use: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if in_use and torch.cuda.is_current_stream_capturing():
        raise CudaGraphError(
            "WarpAdam has no capturable step: call optimizer.step() outside torch.cuda.graph. "
            "The forward and backward passes may stay inside"
        )


def _numbers_of(group: Mapping[str, Any], known: _Checked, lr: float | Tensor) -> GroupNumbers:
    """Return the numbers of a group in one step.

    P does not learn from a step whose lr is 0 or less. Reading an lr that is on another device than the CPU would wait,
    so it counts as positive.
    """
    is_judged = lr > 0 if not isinstance(lr, Tensor) else not lr.is_cpu or lr.item() > 0
    settings = known.settings if is_judged else known.settings._replace(is_judged=False)
    return GroupNumbers(settings, lr, known.config.weight_decay, bool(group["maximize"]))


def _alike(numbers: list[GroupNumbers]) -> list[int]:
    """Return for each group the index of the first one that may be stepped with it.

    Their lr and weight decay may differ, but not whether P learns from the step. A group with a tensor as its lr is
    stepped alone.
    """
    first: dict[Hashable, int] = {}
    return [
        index if isinstance(own.lr, Tensor) else first.setdefault((own.settings, own.maximize), index)
        for index, own in enumerate(numbers)
    ]


def _rule_of(param: Tensor, config: WarpAdamConfig) -> tuple[UpdateRule, Distortion]:
    limits = {"rank": config.rank, "block_size": config.block_size, "max_dim": config.max_dim}
    return choose_rule(config.strategy, tuple(param.shape), **limits)


def _described_strategy(config: WarpAdamConfig) -> str:
    how = f"{config.structure} P ({config.placement})"
    if config.learner == Learner.FROZEN:
        return f"{how} that does not learn"
    return f"{how} learned by {config.learner} every {config.meta_every} steps"


def _describe(group: Mapping[str, Any], group_index: int, index: int) -> str:
    if index < len(group.get("param_names", ())):  # not if a parameter was appended by hand
        return repr(group["param_names"][index])
    return f"{index} of group {group_index}"


def _described_part(where: str, part: PartOf) -> str:
    return f"{where}, part {part.prefix.rstrip('.')}," if part.prefix else where


def _check_tensor(tensor: Tensor, role: str, where: str) -> None:
    if is_traceable_wrapper_subclass(tensor) and not can_be_gathered(tensor):
        kind: str | None = f"a {type(tensor).__name__}"
        if is_sharded(tensor):
            kind += f" placed as {tensor.placements}"
    else:
        kind = "complex" if tensor.is_complex() else "sparse" if tensor.layout != torch.strided else None
    if kind is not None:
        raise UnsupportedParameterError(
            f"the {role} {where} of shape {tuple(tensor.shape)} is {kind}: "
            "WarpAdam needs real, dense tensors; sharded ones only with the placements Shard and Replicate"
        )
