"""A search space: parameters, some of which exist only while a parent has certain values.

For example ``rank`` exists only while ``strategy`` is one with a low-rank structure. A space is checked as a whole when
it is made and cannot change afterwards, so code that is given a :class:`SearchSpace` need not check it again. It does
not depend on any tuning library; ``to_optuna.py`` connects it to one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from search_spaces.domains import Choice, Domain, Float, Int, Scalar
from search_spaces.errors import SearchSpaceError, must_be_one_of, unknown_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A parameter exists only while its parent has one of these values.

    Attributes:
        parent: Name of the parent parameter, a :class:`~search_spaces.Choice`.
        values: The values of the parent.

    >>> print(Condition(parent="strategy", values=("low_rank/pre/hypergradient",)))
    strategy is low_rank/pre/hypergradient
    """

    parent: str
    values: tuple[Scalar, ...]

    def __str__(self) -> str:
        return f"{self.parent} is {' or '.join(map(str, self.values))}"

    def holds(self, values: Mapping[str, Scalar]) -> bool:
        """Tell whether the parent has one of the values in ``values``."""
        return self.parent in values and values[self.parent] in self.values


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One thing to tune.

    Attributes:
        name: Name of the parameter, as the optimizer calls it.
        domain: The values it can take.
        when: The condition under which it exists; None if it always exists.

    >>> Parameter(name="lr", domain=Float(low=0.001, high=0.1, log=True)).is_active({})
    True
    """

    name: str
    domain: Domain
    when: Condition | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise SearchSpaceError("name", self.name, "must not be empty")
        if not isinstance(self.domain, Float | Int | Choice):
            raise SearchSpaceError(f"{self.name}.domain", self.domain, "must be a Float, an Int or a Choice")

    def is_active(self, values: Mapping[str, Scalar]) -> bool:
        """Tell whether the parameter exists, given ``values`` of the active parameters before it."""
        return self.when is None or self.when.holds(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """Parameters, parents before their children, and points worth trying first.

    Attributes:
        name: Name of the space.
        parameters: The parameters; they are sorted when the space is made.
        first_trials: Complete, valid assignments to try before any sampling, best first.

    Raises:
        SearchSpaceError: Two parameters have one name; a condition names an unknown parent, a parent that is not a
            choice, or a value that the parent does not have; conditions form a circle; or :meth:`check` refuses a
            first trial.

    >>> rank = Parameter(name="rank", domain=Int(low=1, high=8), when=Condition(parent="low_rank", values=(True,)))
    >>> low_rank = Parameter(name="low_rank", domain=Choice(values=(True, False)))
    >>> space = SearchSpace(name="mine", parameters=(rank, low_rank))
    >>> [parameter.name for parameter in space]
    ['low_rank', 'rank']
    >>> [parameter.name for parameter in space.active({"low_rank": False})]
    ['low_rank']
    >>> space.largest("rank")
    8.0
    """

    name: str
    parameters: tuple[Parameter, ...]
    first_trials: tuple[Mapping[str, Scalar], ...] = field(default=(), hash=False)

    def __post_init__(self) -> None:
        by_name = _by_name(self.parameters)
        for parameter in self.parameters:
            _check_condition(parameter, by_name)
        object.__setattr__(self, "parameters", _parents_first(by_name))
        for position, values in enumerate(self.first_trials):
            try:
                self.check(values)
            except SearchSpaceError as error:
                raise error.under(f"first_trials[{position}]") from None
        object.__setattr__(self, "first_trials", tuple(MappingProxyType(dict(values)) for values in self.first_trials))

    def __reduce__(self) -> tuple[partial[SearchSpace], tuple[()]]:
        trials = tuple(dict(values) for values in self.first_trials)
        return partial(SearchSpace, name=self.name, parameters=self.parameters, first_trials=trials), ()

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Parameter:
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise SearchSpaceError("name", name, *must_be_one_of(name, self.names))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, parents first."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def has_one_point(self) -> bool:
        """Whether there is nothing to choose, as every parameter has one value.

        >>> fixed = Parameter(name="lr", domain=Choice(values=(0.01,)))
        >>> SearchSpace(name="mine", parameters=(fixed,)).has_one_point
        True
        """
        domains = [parameter.domain for parameter in self.active(self.some_values())]
        return all(len(d.values) == 1 if isinstance(d, Choice) else d.low == d.high for d in domains)

    def some_values(self) -> dict[str, Scalar]:
        """Return a legal assignment: the first of ``first_trials``, or the first or lowest value of each parameter."""
        if self.first_trials:
            return dict(self.first_trials[0])
        values: dict[str, Scalar] = {}
        for parameter in self.parameters:
            if parameter.is_active(values):
                domain = parameter.domain
                values[parameter.name] = domain.values[0] if isinstance(domain, Choice) else domain.low
        return values

    def active(self, values: Mapping[str, Scalar]) -> tuple[Parameter, ...]:
        """Return the parameters that exist under ``values``, parents first. A parent needs a value to have children."""
        found: dict[str, Parameter] = {}
        for parameter in self.parameters:
            if parameter.is_active({name: values[name] for name in found if name in values}):
                found[parameter.name] = parameter
        return tuple(found.values())

    def check(self, values: Mapping[str, Scalar]) -> None:
        """Check that ``values`` has a legal value for every active parameter, and nothing else.

        Raises:
            SearchSpaceError: Its ``path`` is the name of the first parameter that is wrong.
        """
        for name in values:
            if name not in self:
                raise SearchSpaceError(name, values[name], *unknown_name(name, self.names))
        active = self.active(values)
        for parameter in self.parameters:
            value = values.get(parameter.name)
            if parameter in active:
                if not parameter.domain.contains(value):
                    raise SearchSpaceError(parameter.name, value, f"must be {parameter.domain}")
            elif parameter.name in values:
                raise SearchSpaceError(parameter.name, value, f"is only used when {parameter.when}")

    def largest(self, name: str) -> float | None:
        """Return the largest number that a parameter can take; None if it is missing or takes no numbers."""
        return self[name].domain.largest if name in self else None


def _by_name(parameters: Sequence[Parameter]) -> dict[str, Parameter]:
    by_name: dict[str, Parameter] = {}
    for parameter in parameters:
        if parameter.name in by_name:
            raise SearchSpaceError("parameters", parameter.name, "repeats a name; each may occur once")
        by_name[parameter.name] = parameter
    return by_name


def _check_condition(parameter: Parameter, by_name: Mapping[str, Parameter]) -> None:
    if (when := parameter.when) is None:
        return
    if when.parent not in by_name:
        raise SearchSpaceError(f"{parameter.name}.when.parent", when.parent, *must_be_one_of(when.parent, by_name))
    domain = by_name[when.parent].domain
    if not isinstance(domain, Choice):
        raise SearchSpaceError(f"{parameter.name}.when.parent", when.parent, f"must be a choice, not {domain}")
    if not when.values or not all(domain.contains(value) for value in when.values):
        raise SearchSpaceError(
            f"{parameter.name}.when.values", when.values, f"must be values of {when.parent}, which is {domain}"
        )


def _parents_first(by_name: Mapping[str, Parameter]) -> tuple[Parameter, ...]:
    ordered: dict[str, Parameter] = {}

    def place(parameter: Parameter, below: tuple[str, ...]) -> None:
        if parameter.name in below:
            raise SearchSpaceError(f"{parameter.name}.when.parent", below[-1], "closes a circle of conditions")
        if parameter.when is not None:
            place(by_name[parameter.when.parent], (*below, parameter.name))
        ordered[parameter.name] = parameter

    for parameter in by_name.values():
        place(parameter, ())
    return tuple(ordered.values())
