"""Reading of single DICOM elements that forgives what archives contain."""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any, cast

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

BROKEN = (
    InvalidDicomError, BytesLengthException, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError,
    NotImplementedError, ArithmeticError, RecursionError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom and its decoders raise on damaged files."""


def get_value(source: Dataset | None, keyword: str) -> Any:  # noqa: ANN401  # what pydicom gives
    """Return the value of an element; None if it is absent or cannot be converted."""
    if source is None:
        return None
    try:
        return source.get(keyword)
    except BROKEN:
        return None


def get_text(source: Dataset | None, keyword: str) -> str:
    """Return the text of an element, without padding; empty if absent."""
    value = get_value(source, keyword)
    return "" if value is None else str(value).strip(" \0")


def get_words(source: Dataset | None, keyword: str) -> tuple[str, ...]:
    """Return the values of an element as upper-case words."""
    return as_words(get_value(source, keyword))


def as_words(value: Any) -> tuple[str, ...]:  # noqa: ANN401  # what pydicom gives
    """Return the upper-case words of one value or many."""
    if value is None or value == "":
        return ()
    many = [value] if isinstance(value, str) else list(value)
    return tuple(str(word).strip(" \0").upper() for word in many)


def get_number(source: Dataset | None, keyword: str) -> float | None:
    """Return the first value of an element as a finite number."""
    return as_number(get_value(source, keyword))


def as_number(value: Any) -> float | None:  # noqa: ANN401  # what pydicom gives
    """Return the first of one value or many as a finite number, else None."""
    try:
        if value is not None and not isinstance(value, (str, bytes)) and hasattr(value, "__len__"):
            value = value[0] if len(value) else None
        result = None if value is None or value == "" else float(value)
    except BROKEN:
        return None
    return result if result is not None and math.isfinite(result) else None


def get_integer(source: Dataset | None, keyword: str) -> int | None:
    """Return the first value of an element as an integer."""
    value = get_number(source, keyword)
    return None if value is None else int(value)


def get_vector(source: Dataset | None, keyword: str, size: int) -> tuple[float, ...] | None:
    """Return exactly ``size`` finite numbers, else None."""
    value = get_value(source, keyword)
    try:
        result = tuple(float(part) for part in value)
    except BROKEN:
        return None
    return result if len(result) == size and all(map(math.isfinite, result)) else None


def first_value(sources: tuple[Dataset, ...], keyword: str) -> Any:  # noqa: ANN401  # what pydicom gives
    """Return the value of the first source that has a non-empty one."""
    for source in sources:
        if keyword in source:
            value = get_value(source, keyword)
            if value is not None and value != "":
                return value
    return None


def first_number(sources: tuple[Dataset, ...], keyword: str) -> float | None:
    """Return the number of the first source that has one."""
    return as_number(first_value(sources, keyword))


def first_words(sources: tuple[Dataset, ...], keyword: str) -> tuple[str, ...]:
    """Return the words of the first source that has any."""
    return as_words(first_value(sources, keyword))


def first_item(source: Dataset, keyword: str) -> Dataset | None:
    """Return the first item of a sequence; None if it is absent or empty."""
    value = get_value(source, keyword)
    return cast(Dataset, value[0]) if value else None


def private_value(source: Dataset | None, group: int, creator: str, element: int) -> Any:  # noqa: ANN401  # what pydicom gives
    """Return the value of a private element of the block that ``creator`` reserved; None if absent."""
    if source is None:
        return None
    try:
        return source.private_block(group, creator)[element].value
    except BROKEN:
        return None


def private_item(source: Dataset, group: int, creator: str, element: int) -> Dataset | None:
    """Return the first item of a private sequence."""
    value = private_value(source, group, creator, element)
    return cast(Dataset, value[0]) if value else None


def private_number(source: Dataset, group: int, creator: str, element: int) -> float | None:
    """Return the number of a private element."""
    return as_number(private_value(source, group, creator, element))


def private_words(source: Dataset | None, group: int, creator: str, element: int) -> tuple[str, ...]:
    """Return the words of a private element."""
    return as_words(private_value(source, group, creator, element))
