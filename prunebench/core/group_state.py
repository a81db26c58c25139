"""A set of kept groups with its inverse, moved one group at a time: exact costs of every drop, addition and exchange.

The state is the tableau of principal pivots (Goodnight: A tutorial on the SWEEP operator, The American Statistician
33, 1979) in blocks of a group. With S the kept inputs, T the dropped ones, P = A_SS⁻¹ and E from `Parts`:

    table[S, S] = −P        table[S, T] = P·A_ST         table[T, T] = A_TT − A_TS·P·A_ST
    right[S]    = P·E_S     right[T]    = E_T − A_TS·P·E_S

One move is one block pivot: O(p²|g|) for the table, O(p·r|g|) for the right-hand side. Then for every group g

    f changes by ½ tr(right_gᵀ |table_gg|⁻¹ right_g),

upwards if a kept group leaves, downwards if a dropped one enters. Rounding grows from move to move; the table is
computed anew by Cholesky after `REFRESH` of them.
"""

import numpy as np
import numpy.typing as npt

from prunebench.core import lapack
from prunebench.core.arrays import BoolArray, FloatArray, IndexArray
from prunebench.core.errors import InvalidInput
from prunebench.core.group_form import GroupForm, not_definite

REFRESH = 50
"""Moves until the table is computed anew: rounding then stays far below 1e-6 of f on well-conditioned layers, and a
new table costs about as much as six moves of a layer of 64 groups."""


class GroupState:
    """The kept groups, f, and the tableau by which moves are valued.

    form : the group form;  kept : bool (C,)   the groups to begin with
    """

    def __init__(self, form: GroupForm, kept: npt.ArrayLike) -> None:
        self.form = form
        self.parts = form.parts
        self.kept: BoolArray = np.array(kept, dtype=np.bool_)
        self.value = 0.0
        """f of the kept groups."""
        self.moves = 0
        """Moves since the table was computed from the form."""
        self.table: FloatArray = np.empty(0)
        self.right: FloatArray = np.empty(0)
        self.refresh()

    def refresh(self) -> None:
        """Compute table and value from the form. O(p³)"""
        matrix, right = self.parts.matrix, self.parts.right
        rows = self.parts.rows_of(self.kept)
        others = self.parts.rows_of(~self.kept)
        self.table, self.right = np.array(matrix), np.array(right)
        self.moves, self.value = 0, self.form.constant
        if rows.size == 0:
            return
        inverse = _inverse(matrix[np.ix_(rows, rows)])
        solved = inverse @ right[rows]
        self.value -= 0.5 * float(np.einsum("ij,ij->", solved, right[rows]))
        across = matrix[np.ix_(rows, others)]
        carried = inverse @ across
        self.table[np.ix_(rows, rows)] = -inverse
        self.table[np.ix_(rows, others)] = carried
        self.table[np.ix_(others, rows)] = carried.T
        self.table[np.ix_(others, others)] -= across.T @ carried
        self.right[rows] = solved
        self.right[others] -= across.T @ solved

    def changes(self) -> FloatArray:
        """By how much f rises if a kept group leaves, or falls if a dropped one enters. float64 (C,), not negative"""
        out = np.empty(self.form.groups)
        for members, places in self.parts.classes:
            blocks = self.table[places[:, :, None], places[:, None, :]]
            blocks = np.where(self.kept[members][:, None, None], -blocks, blocks)
            out[members] = _explained(blocks, self.right[places])
        return out

    def exchanges(self, leaving: int) -> FloatArray:
        """By how much f rises if the kept group `leaving` leaves and a dropped one enters; inf for kept ones. (C,)"""
        rows = self.parts.rows(leaving)
        inner, held = -self.table[rows, rows], self.right[rows]
        out = np.full(self.form.groups, np.inf)
        base = float(_explained(inner[None], held[None])[0])
        for members, places in self.parts.classes:
            open_ = ~self.kept[members]
            if not open_.any():
                continue
            at = places[open_]
            links = self.table[at[:, :, None], np.arange(rows.start, rows.stop)]
            carried = np.linalg.solve(inner[None], links.transpose(0, 2, 1))
            blocks = self.table[at[:, :, None], at[:, None, :]] + links @ carried
            right = self.right[at] + carried.transpose(0, 2, 1) @ held
            out[members[open_]] = base - _explained(blocks, right)
        return out

    def move(self, group: int) -> None:
        """Drop a kept group, or add a dropped one. O(p²|g|), O(p³) each `REFRESH` moves"""
        if self.moves >= REFRESH:
            self.kept[group] = ~self.kept[group]
            self.refresh()
            return
        rows = self.parts.rows(group)
        keeps = bool(self.kept[group])
        block = np.array(self.table[rows, rows])
        pivot = -_inverse(-block) if keeps else _inverse(block)
        links = np.array(self.table[:, rows])
        held = np.array(self.right[rows])
        change = 0.5 * float(np.einsum("ij,ij->", held, pivot @ held))
        scaled = links @ pivot
        self.table -= scaled @ links.T
        self.right -= scaled @ held
        sign = -1.0 if keeps else 1.0
        self.table[:, rows] = sign * scaled
        self.table[rows, :] = sign * scaled.T
        self.table[rows, rows] = -pivot
        self.right[rows] = sign * (pivot @ held)
        self.value -= change
        self.kept[group] = ~self.kept[group]
        self.moves += 1

    def weights_right(self) -> FloatArray:
        """The refitted weights of E's columns, in the order of the groups; zero for dropped groups. float64 (p, r)"""
        return np.where(np.repeat(self.kept, self.form.sizes)[:, None], self.right, 0.0)


def _explained(blocks: FloatArray, right: FloatArray) -> FloatArray:
    """½ tr(bᵀB⁻¹b) for positive definite blocks. (m, n, n), (m, n, r) -> (m,)

    Raises
    ------
    InvalidInput   a block is singular in float64
    """
    try:
        if blocks.shape[1] < right.shape[2]:
            squares = right @ right.transpose(0, 2, 1)
            return 0.5 * np.asarray(np.trace(np.linalg.solve(blocks, squares), axis1=1, axis2=2))
        return 0.5 * np.asarray(np.einsum("mij,mij->m", right, np.linalg.solve(blocks, right)))
    except np.linalg.LinAlgError as error:
        raise not_definite() from error


def _inverse(matrix: FloatArray) -> FloatArray:
    """The inverse of a positive definite matrix, symmetric. (n, n) -> (n, n)

    Raises
    ------
    InvalidInput   the matrix is not positive definite in float64
    """
    factor, info = lapack.dpotrf(matrix, lower=1, clean=1)
    if info != 0:
        raise not_definite()
    half, info = lapack.dpotri(factor, lower=1)
    if info != 0:
        raise not_definite()
    lower = np.tril(half)
    return np.asarray(lower + np.tril(half, -1).T)


def best_group(changes: FloatArray, among: BoolArray, largest: bool = False) -> int:
    """The group of the smallest (or largest) change among some; ties go to the lower number. (C,), (C,)"""
    if not among.any():
        raise InvalidInput("there is no group to choose among")
    held = np.where(among, changes, -np.inf if largest else np.inf)
    return int(np.argmax(held) if largest else np.argmin(held))


def rows_of_groups(form: GroupForm, groups: IndexArray) -> IndexArray:
    """The places of some groups, in their order. int64 (m,) -> int64 (s,)"""
    return np.concatenate([np.arange(form.parts.starts[g], form.parts.starts[g + 1]) for g in groups])
