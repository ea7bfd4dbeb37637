"""The interface of every structure: how the P of one tensor is made of a few small factor tensors.

For example the Kronecker structure stores P as two square matrices A and B and applies it as A G B^T. A structure holds
shapes only, no tensors. So one object serves every parameter of the same shape, and the factors live in
``optimizer.state``. Where P acts is decided in ``placements.py``, how it learns in ``learners/``.
"""

from __future__ import annotations

import math
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
    return (shape[0], math.prod(shape[1:]))


class Distortion(ABC):
    """P of one tensor, as a linear map on its ``layout``.

    All methods but :meth:`to_layout` and :meth:`from_layout` take and return tensors in the layout. They also work on
    several P at once: then factors and tensors share one more dimension in front. Factors are fp32, or fp64 for fp64
    parameters.

    A *side* is a factor that is a square matrix and can follow the gradient's covariance on its side of the gradient:
    the rows and the columns of a Kronecker P, or the blocks of a full one. The learners ``rotation`` and ``whitening``
    work on sides. The other structures have none, and what is said about sides here does nothing for them.
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

    @property
    def size(self) -> int:
        """Elements of the parameter. A layout with padding has more."""
        return math.prod(self.layout)

    @property
    def mixes(self) -> bool:
        """Whether an element of P g can depend on several elements of g."""
        return True

    def padded_to(self, layout: tuple[int, ...]) -> Distortion | None:  # noqa: ARG002 - by default there is none
        """Return the structure for tensors of this one that are padded with zeros to a longer layout, if there is one.

        Structures of different layouts that give equal results can be stepped together.
        """
        return None

    def to_layout(self, tensor: Tensor) -> Tensor:
        """Bring a tensor of the parameter's shape, with any strides, into the layout. A view where possible."""
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
        """Return P^T u. May overwrite ``update``."""

    @abstractmethod
    def pullback(self, factors: Mapping[str, Tensor], left: Tensor, right: Tensor) -> Factors:
        """Return the gradient of every factor if the gradient of P is left right^T, which is never formed."""

    @abstractmethod
    def settle(self, factors: Mapping[str, Tensor], p_decay: float) -> None:
        """Pull P towards the identity by ``p_decay``; remove freedom of the factors that P does not show; in place."""

    @abstractmethod
    def measure(self, factors: Mapping[str, Tensor]) -> dict[str, Measures]:
        """Return the measures of the matrices whose Kronecker product is P, by factor; empty for the identity.

        For one P at a time. Computed on the CPU; waits for the device.
        """

    @property
    def sides(self) -> dict[str, str]:
        """The name of each side's factor, and the name of the covariance of the same shape."""
        return {}

    def init_sides(self, dtype: torch.dtype, device: torch.device) -> Factors:
        """Return the factors of the exact identity, and a zero covariance for each side."""
        factors = self.init_factors(dtype, device)
        return factors | {covariance: torch.zeros_like(factors[side]) for side, covariance in self.sides.items()}

    def follow(self, state: Mapping[str, Tensor], grad: Tensor, cov_beta: float) -> None:  # noqa: B027 - not abstract
        """Fold a gradient into the running covariances in ``state``, in place, with decay rate ``cov_beta``."""

    def reordered(self, tensor: Tensor, side: str, order: Tensor) -> Tensor:
        """Permute a tensor in the same way as the rows of a side's factor. Only a structure with sides has this method.

        Args:
            tensor: In the layout or of ``scale_shape``.
            side: Name of the factor.
            order: For each new row of the factor the old one; the factor's shape without its last dimension.
        """
        raise NotImplementedError
