"""Conditions on sessions, such as ``age > 60 and sex == 'F'``: read as what they are, and never run as code."""

from __future__ import annotations

import ast
from collections.abc import Collection

import pandas as pd

from storage.store.repository import StoreError

_ALLOWED = (
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple),
)
"""What a condition is made of; no call, no attribute, no subscript."""


def columns_of(condition: str) -> set[str]:
    """Names of the columns that a condition is about.

    Raises
    ------
    StoreError
        If it is no condition, or holds more than comparisons of columns with values.
    """
    try:
        tree = ast.parse(condition.strip(), mode="eval")
    except SyntaxError:
        raise StoreError(f"{condition!r} is no condition; write it as \"age > 60 and sex == 'F'\"") from None
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            raise StoreError(
                f"{condition!r} holds {type(node).__name__.lower()}, and a condition may only compare columns with "
                "values, joined by and, or, not"
            )
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def fulfilled(table: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Rows of a table that fulfil a condition; what is not known fulfils no comparison but ``!=``.

    Raises
    ------
    StoreError
        If it is no condition, or the table has no such column.
    """
    check_known(columns_of(condition), table.columns)
    try:
        chosen = table.query(condition.strip(), engine="python")
    except (TypeError, ValueError) as error:
        raise StoreError(f"{condition!r} cannot be asked of these columns ({error})") from error
    return chosen


def check_known(names: Collection[str], known: Collection[str]) -> None:
    """Raise `StoreError` unless all names are known columns."""
    if unknown := sorted(set(names) - set(known)):
        near = [name for name in known if unknown[0].lower() in name.lower()]
        raise StoreError(
            f"{unknown[0]}: there is no such column; " + (f"is it {', '.join(near[:3])}?" if near else _LIST)
        )


_LIST = "`table().columns` lists them, and `join` adds those of a table of your own"
