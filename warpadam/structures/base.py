# The contract of a structure: how P of one tensor is parameterised by a few factor tensors. A structure holds shapes
# only, never tensors, so that one object serves every parameter of the same shape and the factors can live in
# optimizer.state. Must not know about Adam: where P acts is in placements.py, how it learns in learners/.
"""The interface of every parameterisation of P."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from warpadam.structures.measures import Measures

Factors = dict[str, Tensor]
"""The tensors that make up one P, by name."""


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in which a tensor is mixed: (rows, everything else), or (elements,) below two axes.

    >>> matrix_shape((8, 3, 5, 5)), matrix_shape((7,)), matrix_shape(())
    ((8, 75), (7,), (1,))
    """
    if len(shape) < 2:
        return (shape[0] if shape else 1,)
    columns = 1
    for length in shape[1:]:
        columns *= length
    return (shape[0], columns)


class Distortion(ABC):
    """P of one tensor, as a linear map on its ``layout``.

    All methods but :meth:`to_layout` and :meth:`from_layout` take and return tensors in the layout, and may be given
    several P at once: factors and tensors that share leading dimensions. Factors are fp32, or fp64 for fp64 parameters.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def layout(self) -> tuple[int, ...]:
        """Shape of the tensors that P maps."""

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Shape of a learned scale of the directions: one number for each row, then one for each column."""
        return (sum(self.layout),)

    def to_layout(self, tensor: Tensor) -> Tensor:
        """Bring a tensor of the parameter's shape, of any strides, into the layout (a view where possible)."""
        return tensor.reshape(self.layout)

    def from_layout(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Undo :meth:`to_layout`."""
        return tensor.view(shape)

    @abstractmethod
    def init_factors(self, dtype: torch.dtype, device: torch.device) -> Factors:
        """Return the factors of the exact identity."""

    @abstractmethod
    def apply(self, factors: Mapping[str, Tensor], grad: Tensor) -> Tensor:
        """Return P g."""

    @abstractmethod
    def apply_transpose(self, factors: Mapping[str, Tensor], update: Tensor) -> Tensor:
        """Return P^T u; ``update`` may be overwritten."""

    @abstractmethod
    def pullback(self, factors: Mapping[str, Tensor], left: Tensor, right: Tensor) -> Factors:
        """Return the gradient of every factor for the rank-one gradient dP = left right^T, never forming dP."""

    @abstractmethod
    def settle(self, factors: Mapping[str, Tensor], p_decay: float) -> None:
        """Pull P towards the identity by ``p_decay`` and remove freedom that P does not see, in place."""

    @abstractmethod
    def measure(self, factors: Mapping[str, Tensor]) -> dict[str, Measures]:
        """Return the measures of the matrices whose Kronecker product P is, by factor; none for the identity.

        For one P, on the CPU; it waits for the device.
        """


class SidedDistortion(Distortion):
    """A P whose factors are square matrices, each on one side of the gradient, that can follow its covariance there."""

    __slots__ = ()

    @property
    @abstractmethod
    def sides(self) -> dict[str, str]:
        """Name of each factor, and of the covariance that has its shape."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Elements of the parameter; the layout may have more."""

    def init_sides(self, dtype: torch.dtype, device: torch.device) -> Factors:
        """Return the factors of the exact identity, and covariances that have seen nothing."""
        factors = self.init_factors(dtype, device)
        return {**factors, **{self.sides[name]: torch.zeros_like(factor) for name, factor in factors.items()}}

    @abstractmethod
    def follow(self, state: Mapping[str, Tensor], grad: Tensor, cov_beta: float) -> None:
        """Fold a gradient into the running covariances of ``state``, in place, with decay rate ``cov_beta``."""

    @abstractmethod
    def reordered(self, tensor: Tensor, side: str, order: Tensor) -> Tensor:
        """Permute a tensor in the layout, or a scale, as the rows of one factor were.

        Args:
            tensor: In the layout or of ``scale_shape``.
            side: Name of the factor.
            order: For each new row of the factor the old one; the factor's shape without its last dimension.
        """
